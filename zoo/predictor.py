"""Predictor: photographs in, logits out. A run and its exported file are both one, and must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from zoo.preprocess import Preprocess


class Predictor(Protocol):
    """What `evaluate`, `predict` and `verify` ask of a run and of a file alike."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def device(self) -> str:
        """What really executes, for instance `cpu`, `cuda:0`, `CPUExecutionProvider`."""
        ...

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        ...


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities `(N, classes)` of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities
