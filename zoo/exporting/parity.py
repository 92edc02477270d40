"""Parity: how far a file's predictions lie from those of its run over the same photographs, and whether that may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import ZooError
from zoo.evaluation.statistics import paired_difference_interval, wilson_interval
from zoo.exporter import StageDifference
from zoo.predictions import Predictions

# Largest difference of a probability between a run and its file in fp32. Two engines differ by about 1e-6; one grey
# level of a resize moves a probability by up to some 1e-3; a wrong mean or a swapped channel moves it by tenths.
TOLERANCE = 0.01
# Mean difference in fewer bits: int8 of a fine-tuned Lite0 0.01, logits divided by four 0.2. Labels may hold where
# probabilities mean something else
MEAN_TOLERANCE = 0.03


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A photograph whose label differs: what each says, how sure it is, and what the photograph shows."""

    id: str
    label: str
    run: tuple[str, float]
    file: tuple[str, float]

    def __str__(self) -> str:
        return f"{self.id}: run {self.run[0]} {self.run[1]:.4f}, file {self.file[0]} {self.file[1]:.4f}"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A file against its run. Accuracies are shares of the photographs; intervals hold 95 %."""

    precision: str
    images: int
    agreeing: int  # equal labels
    largest_difference: float  # of a probability
    mean_difference: float
    flips: tuple[Flip, ...]
    flip_interval: tuple[float, float]  # of the share that flips: Wilson
    accuracy: float
    run_accuracy: float
    drop_interval: tuple[float, float]  # of the accuracy lost: Newcombe, paired
    drop_per_class: dict[str, float]
    max_drop: float  # what may be lost; counts in every precision but fp32
    stages: tuple[StageDifference, ...] = ()
    provider: str = ""

    @property
    def drop(self) -> float:
        """Accuracy lost."""
        return self.run_accuracy - self.accuracy

    @property
    def passed(self) -> bool:
        if self.parted() is not None:
            return False
        if self.precision != "fp32":
            return self.drop <= self.max_drop + 1e-9 and self.mean_difference <= MEAN_TOLERANCE
        return self.agreeing == self.images and self.largest_difference <= TOLERANCE

    def __str__(self) -> str:
        text = (
            f"{self.agreeing} of {self.images} labels equal the run's, "
            f"largest probability difference {self.largest_difference:.2g}"
        )
        if self.precision == "fp32":
            return text
        low, high = self.drop_interval
        lost = f"{self.precision} accuracy {self.accuracy:.4f}, the run's {self.run_accuracy:.4f}"
        return f"{lost}, lost {self.drop:.4f} ({low:.4f} to {high:.4f}); {text}"

    def parted(self) -> StageDifference | None:
        """The first stage of the way that differs by more than it may."""
        return next((stage for stage in self.stages if not stage.passed), None)

    def summary(self) -> dict[str, Any]:
        """All but the photographs: what travels in the file."""
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
            "drop_per_class": self.drop_per_class,
            "stages": [stage.to_json() for stage in self.stages],
            "flips": [{"id": one.id, "label": one.label, "run": one.run, "file": one.file} for one in self.flips],
        }


def compare(
    ours: Predictions,
    theirs: Predictions,
    *,
    precision: str = "fp32",
    max_drop: float = 0.0,
    stages: tuple[StageDifference, ...] = (),
    provider: str = "",
) -> Parity:
    """Parity of a file's table with its run's, over the images of the run's.

    Raises:
        ZooError: they hold different images or classes.
    """
    position = {name: index for index, name in enumerate(theirs.ids)}
    missing = [name for name in ours.ids if name not in position]
    if missing or ours.classes != theirs.classes:
        what = f"`{missing[0]}` is not among the photographs" if missing else "the classes differ"
        raise ZooError(f"the check set is not what the run was scored on: {what}", hint="pass the run's own `--data`")
    rows = np.array([position[name] for name in ours.ids])
    predicted, probabilities = theirs.predicted[rows], theirs.probabilities[rows]
    flipped = np.flatnonzero(predicted != ours.predicted)
    names = ours.classes

    def said(labels: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], index: Any) -> tuple[str, float]:
        return names[labels[index]], float(shares[index].max())

    apart = np.nan_to_num(np.abs(probabilities - ours.probabilities), nan=1.0)  # no number is no probability
    right, run_right = predicted == ours.labels, ours.correct
    lost = run_right.astype(np.float64) - right
    return Parity(
        precision=precision,
        images=len(rows),
        agreeing=len(rows) - len(flipped),
        largest_difference=float(apart.max()),
        mean_difference=float(apart.mean()),
        flips=tuple(
            Flip(
                id=ours.ids[index],
                label=names[ours.labels[index]],
                run=said(ours.predicted, ours.probabilities, index),
                file=said(predicted, probabilities, index),
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
        stages=stages,
        provider=provider,
    )
