"""Optimizers: how a step changes the parameters that a phase trains, given their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoo.option import Option


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer that a plugin registers.

    Attributes:
        name: What `--optimizer` takes.
        summary: One line for `zoo list optimizers`.
        target: `(groups, **options) -> torch.optim.Optimizer`, as a callable or as `"module:function"`. Each group is a
            dict of `params`, a list of tensors, with their own `lr`, the highest rate of the schedule, and
            `weight_decay`, as `torch.optim` takes them. zoo sets the `lr` of each group before each step.
        options: Options, which the function receives by name.
    """

    name: str
    summary: str
    target: str | Callable[..., Any] = field(repr=False)
    options: tuple[Option, ...] = ()
