"""Hints for options of strategies and other choices: what an option takes, and an example."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from zoo.experiment import Experiment, option_of
from zoo.strategy import NORMS, RESERVED, Strategy, option_help

# Options that every strategy has: what each is, and an example of its value
COMMON: Mapping[str, tuple[str, str]] = {
    "epochs": ("epochs of its phases together", "2"),
    "lr": ("factor of the learning rate", "0.1"),
    "norm": ("what happens to running statistics", NORMS[1]),
    "ema": ("decay of a moving average of the weights, above 0 and below 1", "0.99"),
    "mixup": ("alpha of mixup, above 0", "0.2"),
    "cutmix": ("alpha of CutMix, above 0", "1"),
    "bss": ("strength of batch spectral shrinkage, above 0", "0.001"),
    "stochnorm": ("chance that a channel is normalised by its batch, above 0 and below 1", "0.5"),
    "distill": ("folder of the run that teaches", "runs/first"),
    "distill_temperature": ("divisor of both networks' logits", "4"),
    "distill_weight": ("share of the teacher in the loss, above 0 and up to 1", "0.9"),
}
assert tuple(COMMON) == RESERVED

# What other tools call settings of a run
_SETTINGS = {
    "wd": "weight_decay",
    "bs": "batch_size",
    "opt": "optimizer",
    "scheduler": "schedule",
    "size": "image_size",
}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class OptionHint:
    """An option as a user may write it.

    Attributes:
        name: Its name.
        kind: Type of its value: int, float, bool, str or a Literal.
        meaning: What it is; may be empty.
        example: The whole text with the option, such as `lora:8`; may be empty.
    """

    name: str
    kind: Any
    meaning: str
    example: str

    def __str__(self) -> str:
        choices = get_args(self.kind) if get_origin(self.kind) is Literal else ()
        takes = f"one of {' '.join(map(str, choices))}" if choices else _NAMES.get(self.kind, "a text")
        example = f", such as `{self.example}`" if self.example else ""
        return f"`{self.name}` takes {takes}{example}" + (f": {self.meaning}" if self.meaning else "")


def of_strategy(kind: type[Strategy], name: str, types: Mapping[str, Any]) -> OptionHint:
    """The hint for an option of a strategy, its own or one that every strategy has; `types` are those of all."""
    fields = dataclasses.fields(kind)
    if name in COMMON:
        meaning, value = COMMON[name]
        head = f"{kind.name}:2" if fields and fields[0].default is dataclasses.MISSING else kind.name
        teacher = f",distill={COMMON['distill'][1]}" if name.startswith("distill_") else ""
        return OptionHint(name=name, kind=types[name], meaning=meaning, example=f"{head}{teacher},{name}={value}")
    default = next(field.default for field in fields if field.name == name)
    value = _example(types[name], None if default is dataclasses.MISSING else default)
    meaning = " ".join(option_help(kind)[name].split()).partition(". ")[0]
    return OptionHint(
        name=name,
        kind=types[name],
        meaning=meaning,
        example=_written(kind.name, name, value, first=name == fields[0].name),
    )


def of_row(row: str, name: str, default: Any, summary: str, *, first: bool) -> OptionHint:
    """The hint for an option of a row, such as that of a loss."""
    value = _example(type(default), default)
    return OptionHint(name=name, kind=type(default), meaning=summary, example=_written(row, name, value, first=first))


def setting_hint(name: str) -> str | None:
    """The option of `zoo train` that was written as one of a strategy; None: there is none of this name."""
    plain = re.sub(r"[-_ ]", "_", name.casefold())
    setting = _SETTINGS.get(plain, plain)
    if setting not in Experiment.__dataclass_fields__ or setting in ("data", "backbone", "strategy"):
        return None
    return f"`{option_of(setting)}` is a setting of the whole run, and no option of a strategy"


def _written(owner: str, name: str, value: str, *, first: bool) -> str:
    """The text with an option; empty where no value is known to be one."""
    if not value:
        return ""
    return f"{owner}:{value}" if first else f"{owner},{name}={value}"


def _example(kind: Any, default: Any) -> str:
    """A value of an option; empty for a text, whose values only the plugin knows."""
    if get_origin(kind) is Literal:
        return str(next(one for one in reversed(get_args(kind)) if one != default))
    if kind is bool:
        return "false" if default else "true"
    if kind not in (int, float):
        return ""
    if not default:
        return "2" if kind is int else "0.5"
    return f"{default:g}" if kind is float else str(default)
