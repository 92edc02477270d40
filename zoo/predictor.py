"""Predictor: photographs in, logits out. A run and its exported file are both one, and must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from zoo.preprocess import Preprocess
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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


__getattr__ = lazy_attributes(
    __name__,
    {
        "TorchPredictor": "zoo.networks.predictor:TorchPredictor",
        "full_precision": "zoo.networks.predictor:full_precision",
        "open_model": "zoo.inference.opening:open_model",
        "softmax": "zoo.predictions:softmax",
    },
)
