"""Commands: subcommands of `zoo` that plugins register."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand of `zoo`.

    Attributes:
        name: What is typed after `zoo`.
        summary: One line for `zoo --help`.
        target: `"module:attribute"` of a `click.Command`. It is imported only when the command runs or shows its help.
    """

    name: str
    summary: str
    target: str
