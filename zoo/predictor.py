"""Predictors: images in, logits out. A run and its exported file are both predictors, and must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from zoo.preprocess import Preprocess
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Predictor(Protocol):
    """An opened run or file, as `evaluate`, `predict` and `verify` use it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that `logits` applies."""
        ...

    @property
    def device(self) -> str:
        """What executes the network, such as `cpu`, `cuda:0` or `CPUExecutionProvider`."""
        ...

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of N decoded images of any sizes, each `(H, W, 3)` uint8 RGB."""
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
