"""Learning-rate schedules: the rate as a share of the highest, over the steps of one phase."""

from __future__ import annotations

import math

from zoo.experiment import Schedule

# `one-cycle`, Smith and Topin 2018, "Super-convergence", starts at 1/25 of the highest rate and ends at 1e-4 of its
# start, as torch's OneCycleLR. fastai's start is the same; its end is 1e-5 of the highest rate
START = 1 / 25
END = START * 1e-4

# `step` divides the rate by ten after each third of the phase, as in the ImageNet recipe of He et al. 2016
STEPS = 3
STEP_FACTOR = 0.1


def factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """The rate at a step as a share of the highest rate.

    `plateau` is constant here: the recipe lowers the rate when the validation loss stops falling.

    Args:
        schedule: its name.
        step: number of the step, from 0.
        steps: steps of the phase.
        warmup: share of the steps over which the rate rises.
    """
    rising = round(warmup * steps)
    if step < rising:
        share = step / rising
        if schedule == "one-cycle":
            return START + (1 - START) * _cosine(1 - share)
        return (step + 1) / (rising + 1)
    share = (step - rising) / max(steps - rising - 1, 1)
    if schedule == "one-cycle":
        return END + (1 - END) * _cosine(share)
    if schedule == "cosine":
        return _cosine(share)
    if schedule == "step":
        return STEP_FACTOR ** min(int(STEPS * (step - rising) / max(steps - rising, 1)), STEPS - 1)
    return 1.0


def _cosine(share: float) -> float:
    """Half a cosine, from 1 at `share` 0 to 0 at 1: Loshchilov and Hutter 2017, "SGDR", eq. 5."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
