"""Options that several commands share, and how they print: tables on stderr, data on stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where to compute."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace what exists.")
workers_option = click.option(
    "--workers", type=click.IntRange(1), default=None, help="Threads that decode.  [default: one per core, at most 8]"
)


def console() -> Console:
    """Where tables and progress go: stderr, without colour if NO_COLOR is set, wide where it is no terminal."""
    from rich.console import Console

    plain = Console(stderr=True, highlight=False)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Console(stderr=True, highlight=False, width=160)


def fits(screen: Console, table: Table) -> bool:
    """Whether a table can be printed without folding or cutting a cell."""
    from rich.measure import Measurement

    unbounded = screen.options.update_width(100_000)
    return Measurement.get(screen, unbounded, table).maximum <= screen.width


def print_json(data: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def percent(value: float | None) -> str:
    """A share as it stands in tables; `-` where it is not known."""
    return "-" if value is None else f"{value:.3f}"
