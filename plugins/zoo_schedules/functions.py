"""The built-in schedules, as functions of the step, from 0, and of the number of steps after the warm-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

# `one-cycle`, Smith and Topin 2018, "Super-convergence", starts at 1/25 of the highest rate and ends at 1e-4 of its
# start, as torch's OneCycleLR. fastai's start is the same; its end is 1e-5 of the highest rate
START = 1 / 25
END = START * 1e-4


def one_cycle_rise(step: int, steps: int) -> float:
    return START + (1 - START) * _cosine(1 - step / steps)


def one_cycle(step: int, steps: int) -> float:
    return END + (1 - END) * _cosine(_share(step, steps))


def cosine(step: int, steps: int, end: float) -> float:
    return end + (1 - end) * _cosine(_share(step, steps))


def linear(step: int, steps: int, end: float) -> float:
    return end + (1 - end) * (1 - min(_share(step, steps), 1.0))


def step(step: int, steps: int, parts: int, factor: float) -> float:
    """The rate is multiplied after each part but the last, as in the ImageNet recipe of He et al. 2016."""
    power: float = factor ** min(int(parts * step / max(steps, 1)), parts - 1)
    return power


def constant(step: int, steps: int, **_: float) -> float:
    return 1.0


def plateau_lowering(losses: Sequence[float], epochs: int, factor: float) -> float:
    """torch's ReduceLROnPlateau with `threshold=0`: multiplied after so many epochs without a lower loss."""
    lowest, since, lowered = math.inf, -1, 1.0
    for epoch, loss in enumerate(losses):
        if loss < lowest:
            lowest, since = loss, epoch
        if epoch - since >= epochs:
            lowered *= factor
            since = epoch
    return lowered


def _share(step: int, steps: int) -> float:
    return step / max(steps - 1, 1)


def _cosine(share: float) -> float:
    """Half a cosine, from 1 at `share` 0 to 0 at 1: Loshchilov and Hutter 2017, "SGDR", eq. 5."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
