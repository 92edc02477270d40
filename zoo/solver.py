"""Solvers: a head computed from the features of the training images, in the place of steps."""

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
    """What a solver gets: it changes `head` in place and returns what it chose, for the history.

    Among that, a `note` is a line for the user; a `temperature` was fitted on images held out.
    """

    head: nn.Module  # (N, D) features to (N, classes) logits
    features: npt.NDArray[np.float32]  # (N, D), of the training images, unaugmented
    labels: npt.NDArray[np.int64]  # (N,)
    classes: int
    seed: int


__getattr__ = lazy_attributes(
    __name__, {name: f"zoo.training.features:{name}" for name in ("features", "kept_features")}
)
