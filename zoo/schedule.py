"""Schedules: the learning rate at each step of a phase, as a share of the highest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoo.option import Option


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning-rate schedule that a plugin registers. Each of its functions receives all options by name.

    Attributes:
        name: What `--schedule` takes.
        summary: One line for `zoo list schedules`.
        target: `(step, steps, **options) -> factor`, as a callable or as `"module:function"`. The factor, 0 or more,
            multiplies the highest rate of each parameter group. Steps count from 0, after the warm-up.
        options: Options, which the functions receive by name.
        rise: `(step, steps, **options) -> factor`, over the steps of the warm-up. None: a straight line up to 1.
        lowering: `(losses, **options) -> factor`, called after each epoch with the validation losses of the phase's
            epochs so far; the factor multiplies the rates of the epochs that follow. None: the schedule needs no
            validation images.
    """

    name: str
    summary: str
    target: str | Callable[..., Any] = field(repr=False)
    options: tuple[Option, ...] = ()
    rise: str | Callable[..., Any] | None = field(default=None, repr=False)
    lowering: str | Callable[..., Any] | None = field(default=None, repr=False)
