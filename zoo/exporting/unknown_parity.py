"""Parity of scores of unknown images: how far a file's differ from those of its run, and whether that passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import ZooError
from zoo.evaluation.statistics import paired_difference_interval
from zoo.predictions import Predictions
from zoo.unknown import exceeds

# Largest difference of a score between a run and its file in fp32, and largest mean difference in fp16 and int8; 0 is
# the score of a usual image and 1 the threshold. As a share of the score where that is above 1. The resize moves scores
# by up to 0.001 for a Lite0, and by 0.05 for an untrained network of three layers
UNKNOWN_TOLERANCE = 0.1
UNKNOWN_MEAN_TOLERANCE = 0.3
# In fp32 a decision may change only where the run's score is as near to the threshold as this
UNDECIDED = 0.02


@dataclass(frozen=True, kw_only=True)
class UnknownParity:
    """How a file's scores of strangeness compare with its run's, image by image.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        images: Number of images.
        largest_difference: Largest difference of a score, as a share of the run's score where that is above 1.
        mean_difference: Mean of these differences.
        changed: Images that one of the two calls unknown and the other does not, with the run's score and the file's.
        flagged: Share of the images that the file calls unknown.
        run_flagged: Share of the images that the run calls unknown.
        more_interval: 95 % interval of how much larger the file's share is (Newcombe, paired).
        max_drop: By how much it may be larger; unused in fp32.
    """

    precision: str
    images: int
    largest_difference: float
    mean_difference: float
    changed: tuple[tuple[str, float, float], ...]
    flagged: float
    run_flagged: float
    more_interval: tuple[float, float]
    max_drop: float

    @property
    def apart(self) -> tuple[tuple[str, float, float], ...]:
        """The images of `changed` whose score in the run is farther from the threshold than `UNDECIDED`."""
        return tuple(one for one in self.changed if not abs(one[1] - 1) <= UNDECIDED)

    @property
    def passed(self) -> bool:
        """Whether the file may be kept.

        In fp32 scores may differ by `UNKNOWN_TOLERANCE`, and a decision only where the run's score is at the threshold,
        up to `UNDECIDED`. In fp16 and int8 the mean difference is bounded, and the file must not have significantly
        more false alarms than the run, by more than `max_drop`.
        """
        if self.precision == "fp32":
            return self.largest_difference <= UNKNOWN_TOLERANCE and not self.apart
        return self.mean_difference <= UNKNOWN_MEAN_TOLERANCE and self.more_interval[0] <= self.max_drop

    def __str__(self) -> str:
        return (
            f"{self.images - len(self.changed)} of {self.images} decisions on unknown images equal the run's, scores "
            f"differ by up to {self.largest_difference:.2g}, {self.mean_difference:.2g} on average"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "agreeing": self.images - len(self.changed),
            "largest_difference": self.largest_difference,
            "mean_difference": self.mean_difference,
            "tolerance": UNKNOWN_TOLERANCE if self.precision == "fp32" else None,
            "mean_tolerance": None if self.precision == "fp32" else UNKNOWN_MEAN_TOLERANCE,
            "flagged": self.flagged,
            "run_flagged": self.run_flagged,
            "more_flagged_interval_95": list(self.more_interval),
        }


def score_differences(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Differences `(N,)` of scores of strangeness, as shares of `ours` where these are above 1; inf for a NaN."""
    apart = np.abs(theirs.astype(np.float64) - ours) / np.maximum(1, np.abs(ours.astype(np.float64)))
    found: npt.NDArray[np.float64] = np.nan_to_num(apart, nan=np.inf)
    return found


def compare_unknown(
    ours: Predictions, theirs: Predictions, rows: npt.NDArray[np.int64], precision: str, max_drop: float
) -> UnknownParity | None:
    """Compare a file's scores with its run's; None where neither has any.

    Args:
        ours: predictions of the run.
        theirs: predictions of the file.
        rows: of the file's table, in the order of the run's.
        precision: that of the file.
        max_drop: by how much more images of known classes the file may call unknown, in fp16 and int8.

    Raises:
        ZooError: one of the two has scores and the other has none.
    """
    if ours.unknown is None and theirs.unknown is None:
        return None
    if ours.unknown is None or theirs.unknown is None:
        has, lacks = ("file", "run") if ours.unknown is None else ("run", "file")
        raise ZooError(
            f"the {has} scores how strange images are, and the {lacks} does not", hint="export the run again"
        )
    mine, other = ours.unknown.astype(np.float64), theirs.unknown[rows].astype(np.float64)
    differences = score_differences(mine, other)
    flagged, run_flagged = exceeds(other), exceeds(mine)
    return UnknownParity(
        precision=precision,
        images=len(rows),
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        changed=tuple(
            (ours.ids[index], float(mine[index]), float(other[index]))
            for index in np.flatnonzero(flagged != run_flagged)
        ),
        flagged=float(flagged.mean()),
        run_flagged=float(run_flagged.mean()),
        more_interval=paired_difference_interval(flagged, run_flagged),
        max_drop=max_drop,
    )
