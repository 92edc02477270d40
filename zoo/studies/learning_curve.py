"""Learning curves: accuracy by the number of training images, and where pretrained weights are ahead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.studies.results import Results

# Number of training images, accuracy, ends of its interval, seconds, processor seconds
Point = tuple[float, ...]

# Tags of weights of runs that start from random weights, or whose backbone has none, such as `hog_color`
NO_WEIGHTS = ("none", "fixed")


def points_by_images(results: Results, board: Mapping[str, Any]) -> tuple[dict[str, list[Point]], set[str]]:
    """A point for each fraction, by configuration; and the configurations without pretrained weights.

    Args:
        results: an opened study.
        board: the content of its `leaderboard.json`.

    Raises:
        ZooError: a run is missing or damaged.
    """
    points: dict[str, list[Point]] = {}
    untrained: set[str] = set()
    for fraction, part in board["fractions"].items():
        finished = results.finished(float(fraction))
        for row in part["rows"]:
            run = results.run(finished[row["way"]][0])
            images = int(run.record["data"]["fit"]["images"])  # of folds, the mean
            point = (images, row["accuracy"], *row["interval"], row["seconds"], row["core_seconds"])
            points.setdefault(row["way"], []).append(point)
            if run.record["weights"]["tag"] in NO_WEIGHTS:
                untrained.add(row["way"])
    return points, untrained


def where_transfer_pays(points: Mapping[str, Sequence[Point]], untrained: Collection[str]) -> list[str]:
    """The number of training images up to which pretrained weights are better, as a sentence; empty if unknown.

    At each number of images the best configuration with pretrained weights is compared with the best one without. It is
    ahead where its interval lies above the other's.

    Args:
        points: points of each configuration, as from `points_by_images`.
        untrained: the configurations without pretrained weights.
    """
    without = [point for name in untrained for point in points[name]]
    pretrained = [point for name in points if name not in untrained for point in points[name]]
    if not without or not pretrained or max(len(some) for some in points.values()) < 2:
        return []
    ahead: list[int] = []
    not_ahead: list[int] = []
    for images in sorted({point[0] for point in without} & {point[0] for point in pretrained}):
        one, other = (
            max((point for point in group if point[0] == images), key=lambda point: point[1])
            for group in (pretrained, without)
        )
        (ahead if one[2] > other[3] else not_ahead).append(int(images))
    words = "pretrained weights are ahead of training without them, beyond both intervals,"
    if not ahead:
        return [f"{words} at no number of training images"]
    if not not_ahead:
        return [f"{words} at every number of training images, up to {max(ahead):,}"]
    later = [images for images in not_ahead if images > max(ahead)]
    tail = f"; with {min(later):,} no longer" if later else ""
    return [f"{words} with up to {max(ahead):,} training images{tail}"]
