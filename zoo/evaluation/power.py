"""Power: what difference of two networks the images of a split can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import counted
from zoo.evaluation.significance import LEVEL, POWER
from zoo.evaluation.statistics import images_needed, wilson_interval
from zoo.runs.run import FOLDS

DISAGREEMENT = 0.1  # share of images on which two networks give answers of which one is right, if nothing is known


@dataclass(frozen=True, kw_only=True)
class SplitPower:
    """What a split can tell.

    Attributes:
        split: Its name.
        images: Number of images.
        difference: Smallest difference of two accuracies that is significant with probability `POWER`. None: no
            difference is.
        interval: Width of the 95 % interval of an accuracy of `accuracy`.
        accuracy: The accuracy that is assumed.
        disagreement: The share of images, which is assumed, on which one of two networks is right.
    """

    split: str
    images: int
    difference: float | None
    interval: float
    accuracy: float
    disagreement: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """One line."""
        low = f"{100 * self.interval:.1f} points wide"
        can = (
            f"tells two networks apart that differ by {100 * self.difference:.1f} points or more"
            if self.difference is not None
            else "cannot tell any two networks apart"
        )
        return (
            f"{self.split}, {self.images:,} images: {can} (if one of them alone is right on "
            f"{100 * self.disagreement:.0f} % of the images); the interval of an accuracy of "
            f"{100 * self.accuracy:.0f} % is {low}"
        )


def split_power(split: str, images: int, accuracy: float | None) -> SplitPower:
    """What a split of so many images can tell; `accuracy` is that of a simple classifier, None if it is unknown.

    Two networks disagree about as often as one of them is wrong.
    """
    assumed = 0.9 if accuracy is None else min(max(accuracy, 0.5), 0.99)
    share = DISAGREEMENT if accuracy is None else max(1 - assumed, 0.01)
    found: float | None = None
    low, high = 0.0, share
    if images and images_needed(share, share, level=LEVEL, power=POWER) <= images:
        for _ in range(30):
            middle = (low + high) / 2
            if images_needed(share, middle, level=LEVEL, power=POWER) <= images:
                high = middle
            else:
                low = middle
        found = high
    ends = wilson_interval(round(assumed * images), images) if images else (0.0, 1.0)
    return SplitPower(
        split=split, images=images, difference=found, interval=ends[1] - ends[0], accuracy=assumed, disagreement=share
    )


def too_few(split: str, images: int, groups: int | None = None) -> str | None:
    """Why the winner of a split is largely chance, with what helps, as a sentence; None where it is not.

    The rule: two networks differ on a tenth of the images, and one of them is always right there. If not even this is
    significant with probability `POWER`, the split is too small. That is so below 101 images.

    Args:
        split: Its name; `folds` for all images of a run of folds.
        images: Number of images.
        groups: Number of groups that these are in, which then count as one image each. None: there are none.
    """
    count = images if groups is None else groups
    power = split_power(split, count, None)
    if power.difference is not None:
        return None
    remedy = (
        "only more photographs help"
        if split == FOLDS
        else "`--folds 5` compares on all photographs that are not in the test split"
    )
    in_groups = "" if groups is None else f" in {counted(groups, 'group')}"
    return (
        f"`{split}` has {counted(images, 'photograph')}{in_groups}, too few to choose a winner by: the 95 % interval "
        f"of an accuracy of about {100 * power.accuracy:.0f} % is {100 * power.interval:.0f} points wide, and a "
        f"difference of {100 * power.disagreement:.0f} points may well be missed; {remedy}"
    )
