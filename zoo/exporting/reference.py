"""Reference: how a file's predictions and the images look on the images that its run was scored on.

A server compares the images that it is sent with it. It holds quantiles and counts, no image and no file name.

The test of `zoo.serving.shift_detector` is exact if no two values are equal. So a little noise is added to every value,
here and in the server (`DITHER`): images of equal size then have an order, which is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data import image_statistics
from zoo.data.image import Pixels
from zoo.errors import ZooError
from zoo.evaluation.statistics import Z, wilson_interval
from zoo.predictions import Predictions
from zoo.predictor import Answers, Predictor, ask, threshold_of
from zoo.preprocess import Preprocess
from zoo.unknown import Threshold

Values = npt.NDArray[np.float64]

NAMES = ("confidence", "entropy", *image_statistics.NAMES)
QUANTILES = 21
# Width of the noise that is added to each statistic: far below what matters, and a thousand times what is stored
DITHER = np.array([1e-6, 1e-6, 1e-3, 1e-3, 1e-3, 1e-4, 1e-2])
DECIMALS = (9, 9, 6, 6, 6, 7, 5)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a file looks like on K held-out images.

    Attributes:
        images: Number of images, K.
        split: The split that they are.
        accuracy: Accuracy of the file, as a share of the images.
        accuracy_interval: Its 95 % interval (Wilson).
        gap: Mean confidence less accuracy; 0 if the probabilities are calibrated.
        gap_error: Standard error of `gap`.
        predicted: Images by predicted class, in the order of the classes.
        ranks: Ranks, from 1 to K, of the values in `quantiles`.
        quantiles: Of every statistic of `NAMES`, the values of these ranks, with the noise of `DITHER`.
        means: Mean of every statistic.
    """

    images: int
    split: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    gap: float
    gap_error: float
    predicted: tuple[int, ...]
    ranks: tuple[int, ...]
    quantiles: Mapping[str, tuple[float, ...]]
    means: Mapping[str, float]

    @property
    def gap_interval(self) -> tuple[float, float]:
        """The 95 % interval of `gap` (normal)."""
        return self.gap - Z * self.gap_error, self.gap + Z * self.gap_error

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "split": self.split,
            "accuracy": self.accuracy,
            "accuracy_interval_95": list(self.accuracy_interval),
            "confidence_minus_accuracy": self.gap,
            "confidence_minus_accuracy_error": self.gap_error,
            "predicted": list(self.predicted),
            "means": dict(self.means),
            "ranks": list(self.ranks),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Reference:
        """Read what `to_json` wrote; later versions may have more statistics.

        Raises:
            ZooError: it is damaged.
        """
        try:
            found = cls(
                images=int(value["images"]),
                split=str(value["split"]),
                accuracy=float(value["accuracy"]),
                accuracy_interval=(float(value["accuracy_interval_95"][0]), float(value["accuracy_interval_95"][1])),
                gap=float(value["confidence_minus_accuracy"]),
                gap_error=float(value["confidence_minus_accuracy_error"]),
                predicted=tuple(map(int, value["predicted"])),
                ranks=tuple(map(int, value["ranks"])),
                quantiles={name: tuple(map(float, value["quantiles"][name])) for name in NAMES},
                means={name: float(value["means"][name]) for name in NAMES},
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ZooError("the reference of held-out images cannot be read", hint="export the run again") from error
        sorted_ranks = all(a < b for a, b in zip((0, *found.ranks), found.ranks)) and found.ranks[-1:] <= (
            found.images,
        )
        same = all(len(one) == len(found.ranks) and list(one) == sorted(one) for one in found.quantiles.values())
        if not found.ranks or not sorted_ranks or not same or sum(found.predicted) != found.images:
            raise ZooError("the reference of held-out images does not fit together", hint="export the run again")
        return found


def statistics_of(probabilities: Values, measured: Sequence[Values]) -> Values:
    """The statistics `NAMES` of images, from their probabilities `(N, classes)` and what was measured; `(N, 7)`."""
    logs = np.log(np.maximum(probabilities, 1e-300))
    of_predictions = (probabilities.max(axis=1), -(probabilities * logs).sum(axis=1))
    return np.concatenate([np.stack(of_predictions, axis=1), np.stack(measured)], axis=1)


def make_reference(table: Predictions, measured: Sequence[Values]) -> Reference:
    """The reference of a file.

    Args:
        table: Predictions of the file.
        measured: `zoo.data.image_statistics.measure` of each image, in any order.
    """
    assert len(table) == len(measured)
    shares, count = table.probabilities, len(table)
    values = np.sort(statistics_of(shares, measured), axis=0)  # sums do not depend on the order of the images then
    means = values.mean(axis=0)
    values = np.sort(values + DITHER * np.random.default_rng(0).random(values.shape), axis=0)
    ranks = np.unique(np.linspace(1, count, QUANTILES).round().astype(int))
    confidence, right = shares.max(axis=1), table.correct
    gaps = np.sort(confidence - right)
    return Reference(
        images=count,
        split=table.split,
        accuracy=float(right.mean()),
        accuracy_interval=wilson_interval(int(right.sum()), count),
        gap=round(float(gaps.mean()), 9),
        gap_error=round(float(gaps.std(ddof=1) / count**0.5) if count > 1 else 1.0, 9),
        predicted=tuple(np.bincount(table.predicted, minlength=len(table.classes)).tolist()),
        ranks=tuple(ranks.tolist()),
        quantiles={
            name: tuple(round(float(value), digits) for value in column[ranks - 1])
            for name, column, digits in zip(NAMES, values.T, DECIMALS)
        },
        means={name: round(float(mean), digits) for name, mean, digits in zip(NAMES, means, DECIMALS)},
    )


@dataclass(frozen=True, eq=False)
class MeasuringPredictor:
    """A predictor that also measures the images that it is given, so that none is decoded again for it.

    Attributes:
        predictor: What classifies them.
        measured: Grows by `zoo.data.image_statistics.measure` of each image.
    """

    predictor: Predictor
    measured: list[Values] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictor.classes

    @property
    def preprocess(self) -> Preprocess:
        return self.predictor.preprocess

    @property
    def device(self) -> str:
        return self.predictor.device

    @property
    def threshold(self) -> Threshold | None:
        return threshold_of(self.predictor)

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        return self.answers(photographs).logits

    def answers(self, photographs: Sequence[Pixels]) -> Answers:
        found = ask(self.predictor, photographs)
        self.measured.extend(map(image_statistics.measure, photographs))
        return found
