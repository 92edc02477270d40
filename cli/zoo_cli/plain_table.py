"""A table for a file or a pipe, as rich prints it, without rich: its import takes as long as the rest of `zoo list`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from zoo_cli.options import WIDE

# With any of them, rich may print as on a terminal
_ASKING = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JPY_PARENT_PID")


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """The text of a table for stderr. None where only rich can print it: on a terminal, or with cells to be wrapped.

    Args:
        titles: One for each column.
        rows: Cells without markup, as many in each row as there are titles.
    """
    utf_8 = (sys.stderr.encoding or "").lower().startswith("utf")
    if not utf_8 or sys.stderr.isatty() or any(name in os.environ for name in _ASKING):
        return None
    lines = [titles, *rows]
    if not all(cell.isascii() and cell.isprintable() for line in lines for cell in line):
        return None
    widths = [max(len(line[number]) for line in lines) for number in range(len(titles))]
    if sum(widths) + 3 * len(widths) + 1 > WIDE:
        return None

    def ruled(left: str, between: str, right: str, dash: str) -> str:
        return left + between.join(dash * (width + 2) for width in widths) + right

    def filled(line: Sequence[str], bar: str) -> str:
        return bar + bar.join(f" {cell:{width}} " for cell, width in zip(line, widths)) + bar

    head = [ruled("┏", "┳", "┓", "━"), filled(titles, "┃"), ruled("┡", "╇", "┩", "━")]
    return "\n".join([*head, *(filled(row, "│") for row in rows), ruled("└", "┴", "┘", "─")])
