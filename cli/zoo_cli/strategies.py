"""The table of strategies' options."""

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

# Options that every phase of a strategy takes, with type and help
PHASE_OPTIONS = {
    "epochs": ("int", "number of epochs of the phase; phases without it share the rest of --epochs"),
    "lr": ("float", "factor by which the phase multiplies --lr"),
    "norm": (
        " ".join(NORMS),
        "running statistics of batch norms: keep, update or recompute; see docs/explanation/strategies.md",
    ),
    "ema": ("float", "decay of an exponential moving average of the weights, with which the phase ends"),
    "mixup": ("float", "alpha of mixup, which blends images and labels (Zhang et al. 2018)"),
    "cutmix": ("float", "alpha of CutMix, which pastes part of another image and mixes labels (Yun et al. 2019)"),
    "bss": ("float", "penalty on the smallest singular value of a batch's features (Chen et al. 2019), such as 0.001"),
    "stochnorm": (
        "float",
        "chance that a channel is normalised by its batch, else by running statistics (Kou et al. 2020)",
    ),
    "distill": ("text", "folder of a finished run whose probabilities are learnt, too (Hinton et al. 2015)"),
    "distill_temperature": ("float", "divisor of logits before they are compared with the teacher's; 4 if left out"),
    "distill_weight": ("float", "share of the teacher in the loss; 0.9 if left out"),
}
assert tuple(PHASE_OPTIONS) == RESERVED


def print_options(entries: Sequence[Entry[type[Strategy]]], as_json: bool) -> None:
    """Print a row for each option of each strategy, then the options of every phase."""
    rows = [row for entry in entries for row in _rows(entry)]
    words = [{"name": name, "type": kind, "help": text} for name, (kind, text) in PHASE_OPTIONS.items()]
    if as_json:
        print_json({"options": rows, "of_every_phase": words})
        return
    table = Table(
        "strategy",
        "option",
        "type",
        "default",
        "help",
        title="The first option of a strategy may be given without its name, after the colon: partial:2",
    )
    for row in rows:
        default = "required" if row["required"] else str(row["default"])
        table.add_row(*(escape(text) for text in (row["strategy"], row["option"], row["type"], default, row["help"])))
    table.add_section()
    for word in words:
        table.add_row("all", word["name"], escape(word["type"]), "", escape(word["help"]))
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
