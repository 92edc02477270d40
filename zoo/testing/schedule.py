"""The laws of schedules."""

from __future__ import annotations

import math

from zoo.config.choice import choose
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.testing.law import Violation, require
from zoo.training.lr_schedule import RateSchedule


def check_schedule(schedule: str, *, plugins: Plugins | None = None) -> None:
    """Check a schedule in phases of 1 to 1,000,000 steps, with and without a warm-up.

    Each factor is a finite number of 0 or more, the same whenever it is asked for, and one is above 0. If it follows
    the validation loss, so is the factor after each epoch, whether losses fall, rise or are not finite.

    Args:
        schedule: Its text, as `--schedule` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    choice = choose(schedule, plugins.schedules, plugins)
    try:
        for warmup in (0.0, 0.2, 0.9):
            given = RateSchedule(choice, warmup)
            for steps in (1, 2, 3, 10, 101, 1_000_000):
                asked = range(0, steps, max(steps // 101, 1))
                factors = [given.factor(step, steps) for step in (*asked, steps - 1)]
                again = [given.factor(step, steps) for step in reversed((*asked, steps - 1))]
                require(factors == again[::-1], f"`{schedule}`: a factor depends on more than the step")
                require(max(factors) > 0, f"`{schedule}` is 0 at all of {steps} steps")
        for losses in ([3.0, 2.0, 1.0, 0.5, 0.4], [1.0, 2.0, 3.0, 4.0, 5.0], [math.nan] * 5, [math.inf, 1.0, 1.0, 1.0]):
            lowered = [given.lowered(losses[:count]) for count in (1, 2, 3, 4, 3, 2, 1)]
            require(lowered == lowered[::-1], f"`{schedule}`: the factor depends on more than the losses")
    except ZooError as error:
        raise Violation(error.message) from error
