"""Fractions: accuracy by the number of training images, and up to how many of them transfer is ahead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.studies.results import Results

# Training images, accuracy, low, high, seconds, core-seconds
Point = tuple[float, ...]

# Tags of runs that start from nothing, or whose backbone has nothing to learn, as `hog_color`
NO_WEIGHTS = ("none", "fixed")


def points_by_images(results: Results, board: Mapping[str, Any]) -> tuple[dict[str, list[Point]], set[str]]:
    """A point for each fraction, by way to train; and the ways that bring nothing from other photographs.

    Raises:
        ZooError: a run is missing or damaged.
    """
    points: dict[str, list[Point]] = {}
    bare: set[str] = set()
    for fraction, part in board["fractions"].items():
        finished = results.finished(float(fraction))
        for row in part["rows"]:
            run = results.run(finished[row["way"]][0])
            images = len(run.splits()["roles"]["fit"])
            point = (images, row["accuracy"], *row["interval"], row["seconds"], row["core_seconds"])
            points.setdefault(row["way"], []).append(point)
            if run.record["weights"]["tag"] in NO_WEIGHTS:
                bare.add(row["way"])
    return points, bare


def where_transfer_pays(points: Mapping[str, Sequence[Point]], bare: Collection[str]) -> list[str]:
    """Up to how many training images transfer is ahead of what brings nothing, beyond the intervals of both."""
    nothing = [point for way in bare for point in points[way]]
    carried = [point for way in points if way not in bare for point in points[way]]
    if not nothing or not carried or max(len(some) for some in points.values()) < 2:
        return []
    ahead: list[int] = []
    behind: list[int] = []
    for images in sorted({point[0] for point in nothing} & {point[0] for point in carried}):
        one, other = (
            max((point for point in group if point[0] == images), key=lambda point: point[1])
            for group in (carried, nothing)
        )
        (ahead if one[2] > other[3] else behind).append(int(images))
    if not ahead:
        return ["transfer is at no number of images known to be ahead of training from nothing"]
    if not behind:
        return [f"transfer is ahead of training from nothing at every number of images, up to {max(ahead):,}"]
    later = [images for images in behind if images > max(ahead)]
    tail = f"; with {min(later):,} that is not known any more" if later else ""
    return [f"transfer is ahead of training from nothing with up to {max(ahead):,} training images{tail}"]
