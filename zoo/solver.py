"""Solvers: functions that compute a head from the features of the training images, without optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Task:
    """The input of a solver: the head, and the features of the training images.

    The solver changes `head` in place and returns a dict of JSON values, such as the settings that it chose, which
    becomes part of the history. Three keys have a meaning: `note` is a line for the user, `temperature` is a
    temperature that the solver fitted on held-out images (the last linear layer is divided by it, or the head's own
    method `divide_logits` is called with it), and `held_out` is their number where it is not that of all
    images.

    Attributes:
        head: Maps features `(N, D)` to logits `(N, classes)`.
        features: `(N, D)`, features of the training images without augmentation.
        labels: `(N,)`, their class indices.
        classes: Number of classes.
        seed: Seed of every random choice.
        groups: `(N,)`, a number for each image. Images of one number must be held out together. None: each is alone.
    """

    head: nn.Module
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: int
    seed: int
    groups: npt.NDArray[np.int64] | None = None


__getattr__ = lazy_attributes(
    __name__,
    {
        "features": "zoo.training.features:features",
        "held_out": "zoo.training.held_out_folds:held_out",
        "held_out_folds": "zoo.training.held_out_folds:held_out_folds",
        "kept_features": "zoo.training.features:cached_features",
        "fit_temperature": "zoo.training.temperature_scaling:fit_temperature",
    },
)
