"""Operating points: the threshold of a class's probability that has a wanted precision or recall.

The threshold is chosen on images that the report does not use, so that its precision and recall there are those of new
images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import folded, keys
from zoo.errors import UsageError, did_you_mean
from zoo.evaluation.statistics import grouped_interval, wilson_interval
from zoo.predictions import Predictions

Interval = tuple[float, float]

HINT = "as in `--at bees:recall=0.95` or `--at bees:precision=0.9`"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is asked for.

    Attributes:
        name: the class.
        figure: `precision` or `recall`.
        value: the lowest that will do, above 0 and at most 1.
    """

    name: str
    figure: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}:{self.figure}={self.value:g}"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, and what it does on images that it was not chosen on. An image is called the class where its
    probability of the class is at least the threshold, whichever class is the most probable one.

    Attributes:
        goal: what was asked for.
        chosen_on: name of the images that the threshold was chosen on.
        chosen_images: their number, and of those of the class `chosen_of_class`.
        threshold: from 0 to 1; None: no threshold reaches the goal there, or none of them is of the class.
        best: the highest value of the figure there, where no threshold reaches the goal.
        images: number of images that are reported, and of those of the class `of_class`.
        called: number of them that are called the class.
        precision: share of the called ones that are of the class; None: none is called so.
        recall: share of the class's images that are called so; None: there are none.
        precision_interval, recall_interval: 95 % intervals, Wilson's or over groups.
    """

    goal: Goal
    chosen_on: str
    chosen_images: int
    chosen_of_class: int
    threshold: float | None
    best: float | None
    images: int
    of_class: int
    called: int | None
    precision: float | None
    precision_interval: Interval | None
    recall: float | None
    recall_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        found = {key: value for key, value in asdict(self).items() if key not in ("goal", "best")}
        low = {f"{key}_95": found.pop(key) for key in ("precision_interval", "recall_interval")}
        return {
            "class": self.goal.name,
            "figure": self.goal.figure,
            "wanted": self.goal.value,
            "highest": self.best,
            **found,
            **{key: None if value is None else list(value) for key, value in low.items()},
        }


def parse_goal(text: str, classes: Sequence[str]) -> Goal:
    """A goal from a text such as `bees:recall=0.95`.

    Raises:
        UsageError: it is none, or its class is not one of `classes`.
    """
    name, colon, rest = text.rpartition(":")
    figure, equals, number = rest.partition("=")
    if not (colon and equals and name):
        raise UsageError(f"`{text}` is no operating point", hint=HINT)
    if figure not in ("precision", "recall"):
        raise UsageError(f"`{text}` asks for `{figure}`, which is neither `precision` nor `recall`", hint=HINT)
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise UsageError(f"`{number}` in `{text}` is no {figure} above 0 and up to 1", hint=HINT)
    places = dict(zip(keys(classes), classes))
    known = places.get(name) or places.get(keys([name])[0])
    if known is None:
        alike = [one for one in classes if folded(one) == folded(name)]
        listed = f"its classes are {' '.join(classes[:20])}"
        hint = f"did you mean `{alike[0]}`?" if alike else did_you_mean(name, classes, listed)
        raise UsageError(f"the model has no class `{name}`", hint=hint)
    return Goal(name=known, figure=figure, value=value)


def choose_threshold(
    shares: npt.NDArray[np.float64], of_class: npt.NDArray[np.bool_], goal: Goal
) -> tuple[float | None, float | None]:
    """The threshold for images with probabilities `(N,)`, of which `of_class` `(N,)` are of the class.

    For a recall it is the highest that reaches it, which has the best precision; for a precision the lowest, which has
    the best recall. Of all thresholds that call the same images, it is the one in the middle between the lowest
    probability that is called and the next lower one, so that new images do not fall short of it by chance.

    Returns:
        The threshold, and None; or None, and the highest value of the figure, which is None without images of the
        class.
    """
    if not of_class.any():
        return None, None
    order = np.argsort(-shares, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(shares[order]) != 0, True))  # the last of equal probabilities
    right = np.cumsum(of_class[order])[ends]
    precisions, recalls = right / (ends + 1), right / int(of_class.sum())
    values = precisions if goal.figure == "precision" else recalls
    good = np.flatnonzero(values >= goal.value)
    if not len(good):
        return None, float(values.max())
    place = int(good[0 if goal.figure == "recall" else -1])
    called = float(shares[order][ends[place]])
    if place + 1 == len(ends):
        return called, None
    lower = float(shares[order][ends[place + 1]])
    middle = (called + lower) / 2
    return middle if middle > lower else called, None


def operating_point(goal: Goal, chosen: Predictions, chosen_on: str, reported: Predictions) -> OperatingPoint:
    """The operating point of a goal: its threshold by the images `chosen`, and its figures by those `reported`."""
    of_class, shares = _of(chosen, goal)
    threshold, best = choose_threshold(shares, of_class, goal)
    ours, theirs = _of(reported, goal)
    called = None if threshold is None else theirs >= threshold
    precision, precision_interval = (None, None) if called is None else _share(reported, ours, called)
    recall, recall_interval = (None, None) if called is None else _share(reported, called, ours)
    return OperatingPoint(
        goal=goal,
        chosen_on=chosen_on,
        chosen_images=len(chosen),
        chosen_of_class=int(of_class.sum()),
        threshold=threshold,
        best=best,
        images=len(reported),
        of_class=int(ours.sum()),
        called=None if called is None else int(called.sum()),
        precision=precision,
        precision_interval=precision_interval,
        recall=recall,
        recall_interval=recall_interval,
    )


def _of(table: Predictions, goal: Goal) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    index = table.classes.index(goal.name)
    return table.labels == index, table.probabilities[:, index]


def _share(
    table: Predictions, right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]
) -> tuple[float | None, Interval | None]:
    """The share of `right` among the images `among`, and its interval; None without such images."""
    if not among.any():
        return None, None
    some = right[among]
    groups = None if table.group_numbers is None else table.group_numbers[among]
    interval = wilson_interval(int(some.sum()), len(some)) if groups is None else grouped_interval(some, groups)
    return float(some.mean()), interval


def halves(table: Predictions) -> tuple[Predictions, Predictions]:
    """A table in two halves, by class, as far as groups, which stay whole, allow; the same for the same names."""
    units = table.groups if table.groups is not None else table.ids
    first: dict[str, int] = {}
    for label, unit in zip(table.labels.tolist(), units):
        first.setdefault(unit, label)
    order = sorted(first, key=lambda unit: (first[unit], hashlib.sha256(unit.encode(errors="replace")).digest()))
    side = {unit: place % 2 for place, unit in enumerate(order)}
    sides = np.array([side[unit] for unit in units])
    return _part(table, sides == 0), _part(table, sides == 1)


def _part(table: Predictions, rows: npt.NDArray[np.bool_]) -> Predictions:
    places = np.flatnonzero(rows)
    return Predictions(
        split=table.split,
        classes=table.classes,
        ids=tuple(table.ids[place] for place in places),
        labels=table.labels[places],
        logits=table.logits[places],
        groups=None if table.groups is None else tuple(table.groups[place] for place in places),
    )
