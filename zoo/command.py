"""A subcommand of `zoo`: a row that says where its click command lives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand; `target` is imported only when the command runs or shows its own help."""

    name: str
    summary: str
    target: str  # "module:attribute" of a click.Command
