"""Unknown images: how well scores of strangeness tell images of no class from those of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import BadFile
from zoo.data.grey_levels import Levels
from zoo.data.image import BadImage
from zoo.data.leakage import digests
from zoo.dataset import Unlabelled
from zoo.errors import ZooError
from zoo.evaluation.statistics import grouped_interval, superiority_interval, wilson_interval
from zoo.inference.prediction import predict_all
from zoo.predictions import Predictions
from zoo.predictor import Predictor, threshold_of
from zoo.unknown import exceeds

Scores = npt.NDArray[np.floating[Any]]

PASSING = 0.95  # share of known images that are accepted where false positives are counted


@dataclass(frozen=True, kw_only=True)
class UnknownImages:
    """Figures of images of no class, `unknown`, against those of a split, `known`.

    Attributes:
        data: Name of the unknown images.
        images: Their number.
        flagged: Number of them that are called unknown.
        known: Number of images of the split.
        false_alarms: Number of those that are called unknown.
        rate: The rate of false alarms that the threshold was set for.
        false_alarms_interval: 95 % interval of their share: Wilson's, or over groups where the images have any.
        auroc: Probability that an unknown image has a higher score than a known one, ties counted half: the area under
            the ROC curve.
        auroc_interval: Its 95 % interval (Newcombe).
        false_positives: Unknown images that are accepted where 95 % of the known ones are: the false-positive rate of
            Hendrycks and Gimpel 2017, with known images as the positive ones.
        threshold_images: Number of images of the split that the threshold was set on, so that false alarms among them
            say nothing.
        trained_on: Number of unknown images that the model was trained on, by their contents. None: unknown.
        in_split: Number of unknown images that the split has, too, by their contents. None: not looked for.
        bad: Files of the unknown images that could not be decoded.
        notes: What was decided when they were opened.
    """

    data: str
    images: int
    flagged: int
    known: int
    false_alarms: int
    rate: float
    false_alarms_interval: tuple[float, float]
    auroc: float
    auroc_interval: tuple[float, float]
    false_positives: int
    threshold_images: int | None = None
    trained_on: int | None = None
    in_split: int | None = None
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "images": self.images,
            "flagged": self.flagged / self.images,
            "flagged_interval_95": list(wilson_interval(self.flagged, self.images)),
            "known_images": self.known,
            "unknown_rate": self.rate,
            "false_alarms": self.false_alarms / self.known,
            "false_alarms_interval_95": list(self.false_alarms_interval),
            "threshold_images": self.threshold_images,
            "auroc": self.auroc,
            "auroc_interval_95": list(self.auroc_interval),
            "fpr_at_95": self.false_positives / self.images,
            "fpr_at_95_interval_95": list(wilson_interval(self.false_positives, self.images)),
            "trained_on": self.trained_on,
            "in_split": self.in_split,
            "bad_images": [{"path": file.id, "reason": file.reason} for file in self.bad],
            "notes": list(self.notes),
        }


def false_alarms_interval(table: Predictions) -> tuple[float, float]:
    """95 % interval of the share of a split's images that are called unknown."""
    assert table.unknown is not None
    alarms = exceeds(table.unknown)
    if table.group_numbers is None:
        return wilson_interval(int(alarms.sum()), len(table))
    return grouped_interval(alarms, table.group_numbers)


def area(known: Scores, unknown: Scores) -> float:
    """Probability that one of `unknown` scores is higher than one of `known`; ties count half."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    upto = np.searchsorted(ordered, unknown, side="right")
    return float((below + upto).sum() / (2 * len(known) * len(unknown)))


def passing(known: Scores, unknown: Scores, share: float = PASSING) -> int:
    """Number of unknown images whose score is no higher than the lowest threshold that `share` of `known` pass."""
    rank = int(np.ceil(round(share * len(known), 9)))
    return int((unknown <= np.sort(known)[rank - 1]).sum())


def compare_unknown(
    table: Predictions,
    scores: Scores,
    *,
    data: str,
    rate: float,
    threshold_images: int | None = None,
    trained_on: int | None = None,
    in_split: int | None = None,
    bad: Sequence[BadFile] = (),
    notes: Sequence[str] = (),
) -> UnknownImages:
    """Figures of unknown images with `scores` `(N,)` against the images of a table that has scores; see the class."""
    assert table.unknown is not None
    share = area(table.unknown, scores)
    return UnknownImages(
        data=data,
        images=len(scores),
        flagged=int(exceeds(scores).sum()),
        known=len(table),
        false_alarms=int(exceeds(table.unknown).sum()),
        rate=rate,
        false_alarms_interval=false_alarms_interval(table),
        auroc=share,
        auroc_interval=superiority_interval(share, len(scores), len(table)),
        false_positives=passing(table.unknown, scores),
        threshold_images=threshold_images,
        trained_on=trained_on,
        in_split=in_split,
        bad=tuple(bad),
        notes=tuple(notes),
    )


def score_unknown(
    predictor: Predictor,
    strangers: Unlabelled,
    table: Predictions,
    *,
    workers: int,
    levels: Levels | None,
    fitted: Set[str] | None,
    scored: Set[str],
    held: int | None,
    advance: Callable[[int], None],
) -> UnknownImages:
    """Score images of no class, and compare them with a scored split.

    Args:
        predictor: A model with a threshold.
        strangers: The images.
        table: Its predictions of the split.
        workers: Threads that decode images.
        levels: Grey levels that become black and white. None: those of the model.
        fitted: SHA-256 of the images that the model was trained on. None: unknown.
        scored: SHA-256 of the images of the split.
        held: Number of images of the split that the threshold was set on. None: unknown.
        advance: Called with the number of images classified.

    Raises:
        ZooError: no image can be decoded.
    """
    threshold = threshold_of(predictor)
    assert threshold is not None
    scores: list[float] = []
    bad = [BadFile(name, reason) for name, reason in strangers.rejected]
    for sample, result in predict_all(predictor, strangers.samples, workers=workers, levels=levels, advance=advance):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message.replace(f"`{sample.source}` ", "")))
        else:
            assert result.unknown is not None
            scores.append(result.unknown)
    if not scores:
        raise ZooError(f"no image of `{strangers.name}` can be decoded", hint=f"the first: {bad[0].reason}")
    contents = [digest for _, digest in digests(strangers.samples)]
    return compare_unknown(
        table,
        np.array(scores, np.float32),
        data=strangers.name,
        rate=threshold.rate,
        threshold_images=held,
        trained_on=None if fitted is None else sum(digest in fitted for digest in contents),
        in_split=sum(digest in scored for digest in contents),
        bad=bad,
        notes=strangers.notes,
    )
