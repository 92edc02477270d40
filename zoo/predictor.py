"""Predictors: images in, logits out. A run and its exported file are both predictors, and must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from zoo.preprocess import Preprocess
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from zoo.unknown import Threshold


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


class Answers(NamedTuple):
    """What a predictor gives for N images.

    Attributes:
        logits: `(N, classes)`.
        unknown: `(N,)`, how strange each image is; above 1 it is called unknown. None: the model has no such score.
    """

    logits: npt.NDArray[np.float32]
    unknown: npt.NDArray[np.float32] | None


@runtime_checkable
class UnknownPredictor(Protocol):
    """What a predictor has beside the members of `Predictor`, if its model may tell images of no class."""

    @property
    def threshold(self) -> Threshold | None:
        """How the score was set. None: the model has none."""
        ...

    def answers(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> Answers:
        """Logits and, where `threshold` is not None, scores of N decoded images; see `Predictor.logits`."""
        ...


def threshold_of(predictor: Predictor) -> Threshold | None:
    """How a predictor's score of strangeness was set; None where it gives none."""
    return predictor.threshold if isinstance(predictor, UnknownPredictor) else None


def ask(predictor: Predictor, photographs: Sequence[npt.NDArray[np.uint8]]) -> Answers:
    """Logits of N decoded images and, where the predictor gives them, their scores of strangeness."""
    if isinstance(predictor, UnknownPredictor):
        return predictor.answers(photographs)
    return Answers(predictor.logits(photographs), None)


__getattr__ = lazy_attributes(
    __name__,
    {
        "TorchPredictor": "zoo.networks.predictor:TorchPredictor",
        "full_precision": "zoo.networks.predictor:full_precision",
        "open_model": "zoo.inference.opening:open_model",
        "softmax": "zoo.predictions:softmax",
    },
)
