"""Parity: how far the predictions of a file differ from those of its run on the same images, and whether it passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.errors import ZooError
from zoo.evaluation.statistics import Correct, paired_difference_interval, wilson_interval
from zoo.exporter import StageDifference
from zoo.exporting.unknown_parity import UNKNOWN_TOLERANCE, UnknownParity, compare_unknown
from zoo.predictions import Predictions

# Largest difference of a probability between a run and its file in fp32. Two engines differ by about 1e-6. One grey
# level of a resize moves a probability by up to some 1e-3. A wrong mean or a swapped channel moves it by tenths.
TOLERANCE = 0.01
SHOWN = 10  # changed labels in a message, at most
# Largest mean difference of a probability in fp16 and int8: labels may be equal where probabilities are not. In int8 a
# fine-tuned Lite0 differs by 0.01; with its logits divided by four, by 0.2.
MEAN_TOLERANCE = 0.03

Verdict = Literal["within", "undecided", "exceeds"]
MOST_TIMES = 100  # with so many times the images, an estimate from these says nothing


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image whose predicted label differs between run and file."""

    id: str
    label: str  # the true class
    run: tuple[str, float]  # class that the run predicts, and its probability
    file: tuple[str, float]  # class that the file predicts, and its probability

    def __str__(self) -> str:
        return f"{self.id}: run {self.run[0]} {self.run[1]:.4f}, file {self.file[0]} {self.file[1]:.4f}"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How a file's predictions compare with its run's, image by image.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        images: Number of images.
        agreeing: Images to which both give the same label.
        largest_difference: Largest difference of a probability.
        mean_difference: Mean difference of a probability.
        flips: Images whose label differs.
        flip_interval: 95 % interval of the share of images whose label differs (Wilson).
        accuracy: Accuracy of the file, as a share of the images.
        run_accuracy: Accuracy of the run.
        drop_interval: 95 % interval of the accuracy lost (Newcombe, paired).
        drop_per_class: Accuracy lost for each class.
        max_drop: Accuracy that may be lost; unused in fp32.
        images_to_tell: Where so few images do not tell whether more is lost than `max_drop`, about how many would.
        stages: Differences after each stage from bytes to label, where the exporter compares them.
        provider: What executed the file.
        unknown: The same of scores of strangeness. None: the run has none.
    """

    precision: str
    images: int
    agreeing: int
    largest_difference: float
    mean_difference: float
    flips: tuple[Flip, ...]
    flip_interval: tuple[float, float]
    accuracy: float
    run_accuracy: float
    drop_interval: tuple[float, float]
    drop_per_class: dict[str, float]
    max_drop: float
    images_to_tell: int | None = None
    stages: tuple[StageDifference, ...] = ()
    provider: str = ""
    unknown: UnknownParity | None = None

    @property
    def drop(self) -> float:
        """Accuracy lost."""
        return self.run_accuracy - self.accuracy

    @property
    def passed(self) -> bool:
        """Whether the file may be kept: all differences are within their bounds."""
        if self.parted() is not None or (self.unknown is not None and not self.unknown.passed):
            return False
        return self.labels_passed

    @property
    def labels_passed(self) -> bool:
        """Whether labels and probabilities are within their bounds."""
        if self.precision != "fp32":
            return self.verdict != "exceeds" and self.mean_difference <= MEAN_TOLERANCE
        return self.agreeing == self.images and self.largest_difference <= TOLERANCE

    @property
    def verdict(self) -> Verdict:
        """Whether the 95 % interval shows that the accuracy lost is `within` its bound, or `exceeds` it."""
        return verdict(self.drop_interval, self.max_drop)

    def __str__(self) -> str:
        text = (
            f"{self.agreeing} of {self.images} labels equal the run's, "
            f"largest probability difference {self.largest_difference:.2g}"
        )
        if self.unknown is not None:
            text += f"; {self.unknown}"
        if self.precision == "fp32":
            return text
        low, high = self.drop_interval
        lost = f"{self.precision} accuracy {self.accuracy:.4f}, the run's {self.run_accuracy:.4f}"
        text = f"{lost}, lost {self.drop:.4f} ({low:.4f} to {high:.4f}); {text}"
        if self.verdict != "undecided":
            return text
        text += f"; {self.images} images do not tell whether more than {self.max_drop:g} is lost"
        return text if self.images_to_tell is None else f"{text}, about {self.images_to_tell:,} would"

    def parted(self) -> StageDifference | None:
        """The first stage from bytes to label that differs by more than its bound; None where none does."""
        return next((stage for stage in self.stages if not stage.passed), None)

    def summary(self) -> dict[str, Any]:
        """The part that is written into the file: everything but single images."""
        return {name: value for name, value in self.to_json().items() if name != "flips"}

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "provider": self.provider,
            "images": self.images,
            "agreeing": self.agreeing,
            "flip_rate_interval_95": list(self.flip_interval),
            "largest_difference": self.largest_difference,
            "mean_difference": self.mean_difference,
            "tolerance": TOLERANCE if self.precision == "fp32" else None,
            "accuracy": self.accuracy,
            "run_accuracy": self.run_accuracy,
            "drop": self.drop,
            "drop_interval_95": list(self.drop_interval),
            "max_drop": None if self.precision == "fp32" else self.max_drop,
            "verdict": None if self.precision == "fp32" else self.verdict,
            "images_to_tell": self.images_to_tell,
            "drop_per_class": self.drop_per_class,
            "stages": [stage.to_json() for stage in self.stages],
            "flips": [{"id": one.id, "label": one.label, "run": one.run, "file": one.file} for one in self.flips],
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
        }


def verdict(interval: tuple[float, float], max_drop: float) -> Verdict:
    """Whether an interval of the accuracy lost lies below a bound, above it, or on both sides."""
    if interval[0] > max_drop:
        return "exceeds"
    return "within" if interval[1] <= max_drop else "undecided"


def images_to_tell(run_right: Correct, right: Correct, max_drop: float) -> int | None:
    """How many images like these would tell whether more accuracy is lost than `max_drop`.

    None: these do, or more than `MOST_TIMES` as many would be needed.
    """
    times = 1.0
    while times <= MOST_TIMES:
        count = round(times * len(right))
        rows = np.linspace(0, len(right), count, endpoint=False).astype(np.int64)
        if verdict(paired_difference_interval(run_right[rows], right[rows]), max_drop) != "undecided":
            return None if times == 1.0 else count
        times *= 1.1
    return None


def compare(
    ours: Predictions,
    theirs: Predictions,
    *,
    precision: str = "fp32",
    max_drop: float = 0.0,
    stages: tuple[StageDifference, ...] = (),
    provider: str = "",
) -> Parity:
    """Compare a file's predictions with its run's.

    Args:
        ours: predictions of the run.
        theirs: predictions of the file, on the same images in any order.
        precision: that of the file.
        max_drop: accuracy that may be lost in fp16 and int8.
        stages: differences after each stage from bytes to label.
        provider: what executed the file.

    Raises:
        ZooError: an image of the run has no prediction of the file, or the classes differ.
    """
    position = {name: index for index, name in enumerate(theirs.ids)}
    missing = [name for name in ours.ids if name not in position]
    if missing or ours.classes != theirs.classes:
        what = f"`{missing[0]}` is not among the photographs" if missing else "the classes differ"
        raise ZooError(f"the run was evaluated on other data: {what}", hint="pass the run's own `--data`")
    rows = np.array([position[name] for name in ours.ids])
    predicted, probabilities = theirs.predicted[rows], theirs.probabilities[rows]
    flipped = np.flatnonzero(predicted != ours.predicted)
    names = ours.classes

    def prediction(labels: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], index: Any) -> tuple[str, float]:
        return names[labels[index]], float(shares[index].max())

    # a NaN counts as the largest possible difference
    differences = np.nan_to_num(np.abs(probabilities - ours.probabilities), nan=1.0)
    right, run_right = predicted == ours.labels, ours.correct
    lost = run_right.astype(np.float64) - right
    return Parity(
        precision=precision,
        images=len(rows),
        agreeing=len(rows) - len(flipped),
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        flips=tuple(
            Flip(
                id=ours.ids[index],
                label=names[ours.labels[index]],
                run=prediction(ours.predicted, ours.probabilities, index),
                file=prediction(predicted, probabilities, index),
            )
            for index in flipped
        ),
        flip_interval=wilson_interval(len(flipped), len(rows)),
        accuracy=float(right.mean()),
        run_accuracy=float(run_right.mean()),
        drop_interval=paired_difference_interval(run_right, right),
        drop_per_class={
            name: float(lost[ours.labels == index].mean())
            for index, name in enumerate(names)
            if (ours.labels == index).any()
        },
        max_drop=max_drop,
        images_to_tell=None if precision == "fp32" else images_to_tell(run_right, right, max_drop),
        stages=stages,
        provider=provider,
        unknown=compare_unknown(ours, theirs, rows, precision, max_drop),
    )


def details(parity: Parity) -> str:
    """How the predictions differ, over several lines."""
    lines = [str(parity), *(str(flip) for flip in parity.flips[:SHOWN])]
    if len(parity.flips) > SHOWN:
        lines.append(f"and {len(parity.flips) - SHOWN} more")
    if parity.precision != "fp32":
        worst = max(parity.drop_per_class.items(), key=lambda item: item[1], default=("", 0.0))
        lines.append(f"class `{worst[0]}` loses most accuracy: {worst[1]:.4f}")
    if parity.unknown is not None and not parity.unknown.passed:
        changed = [f"{name}: score {run:.4f}, file {file:.4f}" for name, run, file in parity.unknown.changed]
        lines += [f"too far from the run's scores of unknown images: {parity.unknown}", *changed[:SHOWN]]
    failed = parity.parted()
    if failed is not None:
        lines.append(f"the first stage that differs too much: {failed}")
    elif parity.stages:
        lines.append(f"preprocessing is within its bounds: {parity.stages[-1]}")
    return "\n  ".join(lines)


def remedy(parity: Parity) -> str:
    """What to do about predictions that differ too much."""
    if parity.unknown is not None and not parity.unknown.passed and parity.labels_passed:
        bound = f"differ by {UNKNOWN_TOLERANCE:g}" if parity.precision == "fp32" else "differ as much as labels may"
        return f"scores of unknown images may {bound}; pass another `--precision`, or train without `--unknown-rate`"
    if parity.precision == "fp32" or parity.parted() is not None:
        return f"probabilities may differ by {TOLERANCE} and no label may; the exporter writes this network wrongly"
    if parity.verdict != "exceeds":
        return "the accuracy is high enough, but the probabilities differ too much; use another `--precision`"
    return f"`--max-drop {parity.max_drop:g}` is the accuracy that may be lost; raise it, or use another `--precision`"
