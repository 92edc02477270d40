"""Learning rates: what the chosen schedule gives at each step of a phase, with the warm-up, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from zoo.config.choice import Choice
from zoo.errors import ZooError, first_line

MEND = "the plugin must be mended; `zoo plugins` names its distribution"


class RateSchedule:
    """The rate at a step of a phase, as a share of the highest.

    Args:
        choice: the schedule.
        warmup: share of the steps over which the rate rises.

    Raises:
        ZooError: a function of the schedule cannot be imported, or takes other arguments.
    """

    def __init__(self, choice: Choice, warmup: float) -> None:
        row = choice.entry.value
        self.choice = choice
        self.warmup = warmup
        self._fall = choice.function(2)
        self._rise = choice.function(2, "rise") if row.rise is not None else _straight
        self._lowering = choice.function(1, "lowering") if row.lowering is not None else None

    def factor(self, step: int, steps: int) -> float:
        """The factor at a step, from 0, of a phase of so many steps.

        Raises:
            ZooError: the schedule fails, or gives something other than a finite number of 0 or more.
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return self._checked(f"at step {step + 1} of {steps}", self._rise, step, rising)
        return self._checked(f"at step {step + 1} of {steps}", self._fall, step - rising, steps - rising)

    def lowered(self, losses: Sequence[float]) -> float:
        """The factor after the epochs of a phase that had these validation losses.

        Raises:
            ZooError: as `factor`.
        """
        if self._lowering is None:
            return 1.0
        return self._checked(f"after epoch {len(losses)}", self._lowering, tuple(losses))

    def _checked(self, when: str, function: Any, *arguments: Any) -> float:
        try:
            value = function(*arguments)
        except Exception as error:
            raise ZooError(
                f"schedule `{self.choice}` failed {when}: {type(error).__name__}: {first_line(error)}", hint=MEND
            ) from error
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ZooError(f"schedule `{self.choice}` gives a `{type(value).__name__}` {when}, not a number", hint=MEND)
        try:
            factor = float(value)
        except OverflowError:
            factor = math.inf
        if not math.isfinite(factor) or factor < 0:
            raise ZooError(f"schedule `{self.choice}` gives {factor:g} {when}, not a finite 0 or more", hint=MEND)
        return factor


def _straight(step: int, steps: int) -> float:
    return (step + 1) / (steps + 1)
