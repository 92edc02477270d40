"""Experiment: every setting of one training run, frozen, JSON both ways."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zoo.errors import UsageError, did_you_mean
from zoo.strategy import NORMS, Norm

Schedule = Literal["one-cycle", "cosine", "step", "plateau", "constant"]
Augment = Literal["none", "flip", "rotate", "zoom", "light", "trivial", "rand"]
Optimizer = Literal["adamw", "sgd"]
Balance = Literal["none", "loss", "sample"]
Keep = Literal["last", "best"]
Precision = Literal["auto", "fp32", "bf16"]
Cache = Literal["auto", "on", "off"]
OnBadImage = Literal["skip", "fail"]

# Of a strategy that names no count; chosen with the rate below, see docs/training.md
DEFAULT_EPOCHS = 5

# Of a learning rate: `--lr`, and what a phase's factor makes of it
LR_BOUNDS = (1e-12, 1e3)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a run was asked to do. One set of defaults serves all data; `docs/training.md` says how it was chosen."""

    data: str
    backbone: str
    strategy: str
    weights: str = "default"  # default, none, a published tag, or a file
    epochs: int | None = None  # None: 5, or what the strategy's phases ask for
    batch_size: int = 32
    lr: float | Literal["find"] = 5e-3  # of the head, at its highest; strategies scale it. `find`: by a range test
    accumulate: int = 1  # parts that a batch is computed in; the step is the same, the memory less
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.01
    schedule: Schedule = "one-cycle"
    warmup: float = 0.2  # share of a phase's steps in which the rate rises
    augment: Augment = "light"
    dropout: float | None = None  # None: the network's own
    drop_path: float | None = None
    label_smoothing: float = 0.1
    class_balance: Balance = "none"
    clip: float = 1.0  # largest norm of all gradients together; 0: no clipping
    norm: Norm | None = None  # None: what each phase asks for
    fraction: float = 1.0  # of the training images of every class; a smaller one lies within a larger one
    early_stopping: int | None = None  # epochs without a better choice loss; None: never
    keep: Keep = "last"
    image_size: int | None = None  # pixels; None: the backbone's own
    workers: int | None = None  # threads that decode; None: one per core, at most 8
    seed: int = 0
    split_seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    views: int | None = None  # of an image, in turns; None: the root of the epochs where a prefix is frozen, else all
    cache: Cache = "auto"  # of frozen prefixes; decides on time alone
    on_bad_image: OnBadImage = "skip"
    time_budget: float | None = None  # seconds after which the run ends in good order; None: none
    save_every: float | None = None  # seconds between checkpoints; None: 30, and never over 2 % of the time

    def __post_init__(self) -> None:
        """Refuse values that no run could honour, all at once.

        Raises:
            UsageError: naming each option and its bound.
        """
        problems = []
        fields = self.__dataclass_fields__
        for name in ("data", "backbone", "strategy", "weights", "device"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))  # `Path("photos")` is what one writes in Python
            elif not isinstance(value, str) or not value or "\0" in value:
                problems.append(f"`--{name} {value!r}` is no name or path")
        if not isinstance(self.compile, bool):
            problems.append(f"`compile={self.compile!r}` is not True or False")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                problems.append(
                    f"`--{name.replace('_', '-')} {getattr(self, name)}`: known are {' '.join(get_args(kind))}"
                )
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if (value is None and fields[name].default is None) or (name == "lr" and value == "find"):
                continue
            whole = name in _WHOLE
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                problems.append(f"`--{name.replace('_', '-')} {value}` is not a {'whole ' if whole else ''}number")
            elif not math.isfinite(value):
                problems.append(f"`--{name.replace('_', '-')} {value}` is not a number")
            elif not low <= value <= high:
                form = ",.0f" if whole else "g"
                above = f"{low:{form}} to {high:{form}}" if high < math.inf else f"{low:{form}} or more"
                problems.append(f"`--{name.replace('_', '-')} {value:g}` is outside {above}")
        if self.norm is not None and self.norm not in NORMS:
            problems.append(f"`--norm {self.norm}`: known are {' '.join(NORMS)}")
        if problems:
            raise UsageError("; ".join(problems), hint="see `zoo train --help`")

    @property
    def for_steps(self) -> tuple[str, ...]:
        """Options that were set and that only steps can honour."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        found = [name for name in _FOR_STEPS if values[name][0] != values[name][1]]
        found += ["norm"] if self.norm == "train" else []
        given = [(name, values[name][0]) for name in found]
        # no augmentation is what a solver has
        return tuple(f"--{name.replace('_', '-')} {value}" for name, value in given if value != "none")

    @property
    def chooses(self) -> bool:
        """Whether anything is chosen while training, which needs images that are neither fitted nor reported on."""
        return self.keep == "best" or self.early_stopping is not None or self.schedule == "plateau"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Experiment:
        """Read what `to_json` wrote.

        Raises:
            UsageError: a key that is no setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in data:
            if key not in known:
                raise UsageError(f"unknown setting `{key}`", hint=did_you_mean(key, known, "see `zoo train --help`"))
        return cls(**data)


_FOR_STEPS = (
    "epochs",
    "lr",
    "accumulate",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "augment",
    "views",
    "dropout",
    "drop_path",
    "label_smoothing",
    "class_balance",
    "clip",
    "early_stopping",
    "keep",
)

_WHOLE = (
    "epochs",
    "batch_size",
    "accumulate",
    "early_stopping",
    "image_size",
    "workers",
    "seed",
    "split_seed",
    "views",
)

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 1_000_000),
    ("batch_size", 1, 1_000_000),
    ("accumulate", 1, 1_000_000),
    ("lr", *LR_BOUNDS),
    ("weight_decay", 0, 1e3),
    ("warmup", 0, 0.9),
    ("dropout", 0, 0.99),
    ("drop_path", 0, 0.99),
    ("label_smoothing", 0, 0.99),
    ("clip", 0, math.inf),
    ("fraction", 1e-6, 1),
    ("early_stopping", 1, 1_000_000),
    ("image_size", 8, 4096),
    ("workers", 1, 256),
    ("views", 1, 1_000_000),
    ("seed", 0, 2**31 - 1),
    ("split_seed", 0, 2**31 - 1),
    ("time_budget", 1, math.inf),
    ("save_every", 0, math.inf),
)
