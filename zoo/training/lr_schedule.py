"""Learning-rate schedules, as factors of the highest rate over one phase's steps."""

from __future__ import annotations

import math

from zoo.experiment import Schedule

# One-cycle starts at 1/25 of the highest rate and ends at 1e-4 of it: Smith and Topin 2018, "Super-convergence",
# with the constants that fastai and torch's OneCycleLR share
START = 1 / 25
END = 1e-4

# `step`: a tenth after every third of the phase, as in the classic ImageNet recipe (He et al. 2016)
STEPS = 3
STEP_FACTOR = 0.1


def factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """The rate at `step` of `steps` (from 0), as a share of the highest; `warmup` is the share of rising steps.

    `plateau` is constant here: the recipe lowers it when the choice loss stops falling.
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
    """1 at 0, 0 at 1 (Loshchilov and Hutter 2017, SGDR, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
