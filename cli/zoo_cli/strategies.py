"""Tables of strategies' options."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from zoo.catalogue import Entry
from zoo.strategy import NORMS, RESERVED, Strategy, option_help
from zoo_cli.options import console, print_json

# The words that belong to every phase, with their types
WORDS = {
    "epochs": ("int", "epochs of the phase; phases without it share what the others leave of --epochs"),
    "lr": ("float", "factor of --lr"),
    "norm": (" ".join(NORMS), "what layers with running statistics do; see docs/explanation/strategies.md"),
    "ema": ("float", "decay of an average of the weights; the phase ends with the average"),
    "mixup": ("float", "alpha of mixed images and labels (Zhang et al. 2018)"),
    "cutmix": ("float", "alpha of pasted images and mixed labels (Yun et al. 2019)"),
}
assert tuple(WORDS) == RESERVED


def print_options(entries: Sequence[Entry[type[Strategy]]], as_json: bool) -> None:
    """A row per option of each strategy, then the words of every phase."""
    rows = [row for entry in entries for row in _rows(entry)]
    words = [{"name": name, "type": kind, "help": text} for name, (kind, text) in WORDS.items()]
    if as_json:
        print_json({"options": rows, "of_every_phase": words})
        return
    table = Table(
        "strategy", "option", "type", "default", "help", title="The first option may be given after the colon"
    )
    for row in rows:
        default = "required" if row["required"] else str(row["default"])
        table.add_row(*(escape(text) for text in (row["strategy"], row["option"], row["type"], default, row["help"])))
    table.add_section()
    for word in words:
        table.add_row("every one", word["name"], escape(word["type"]), "", escape(word["help"]))
    console().print(table)


def _rows(entry: Entry[type[Strategy]]) -> list[dict[str, Any]]:
    kind = entry.value
    types, told = typing.get_type_hints(kind), option_help(kind)
    return [
        {
            "strategy": entry.name,
            "option": field.name,
            "type": _type(types[field.name]),
            "required": field.default is dataclasses.MISSING,
            "default": None if field.default is dataclasses.MISSING else field.default,
            "help": " ".join(told[field.name].split()),
        }
        for field in dataclasses.fields(kind)
    ]


def _type(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " ".join(map(str, typing.get_args(kind)))
    return {bool: "true false", str: "text"}.get(kind) or str(kind.__name__)
