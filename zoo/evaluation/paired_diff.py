"""Difference: what a second run gets right that a first one did not, photograph by photograph, and the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UsageError, ZooError
from zoo.evaluation.statistics import mcnemar_test
from zoo.predictions import Predictions
from zoo.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Change:
    """A photograph that only one of two runs gets right."""

    id: str
    label: str  # what it shows
    before: tuple[str, float]  # what the first run says, and how sure it is
    after: tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two runs over the photographs that both were scored on. Changes are in order of how sure the wrong answer was."""

    split: str
    images: int
    before: float  # accuracies, as shares
    after: float
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]
    p_value: float  # exact McNemar, two-sided: of so uneven a split of the changes, were both runs equally good

    def per_class(self) -> dict[str, tuple[int, int]]:
        """By class how many photographs were fixed and broken; classes without either are left out."""
        labels = sorted({change.label for change in (*self.fixed, *self.broken)})
        return {
            name: (sum(one.label == name for one in self.fixed), sum(one.label == name for one in self.broken))
            for name in labels
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "images": self.images,
            "accuracy": [self.before, self.after],
            "p_value": self.p_value,
            "per_class": {name: {"fixed": one[0], "broken": one[1]} for name, one in self.per_class().items()},
            "fixed": [vars(change) for change in self.fixed],
            "broken": [vars(change) for change in self.broken],
        }


def diff(first: Run | Path | str, second: Run | Path | str, *, split: str | None = None) -> Difference:
    """Compare two runs on a split, by default the one that the first reports.

    Raises:
        UsageError: the runs were scored on different photographs, or know different classes.
        ZooError: a run was not scored on the split.
    """
    one, other = (run if isinstance(run, Run) else Run.open(run) for run in (first, second))
    ours = one.predictions(split)
    theirs = other.predictions(ours.split)
    found = compare_tables(ours, theirs)
    digests = [_digest(run, ours.split) for run in (one, other)]
    if None not in digests and digests[0] != digests[1]:
        raise UsageError(
            "the runs were scored on different photographs: some changed in between, under the same names",
            hint="train or evaluate both on the same data",
        )
    return found


def _digest(run: Run, split: str) -> str | None:
    """Of the photographs that a run reports on; None of another split, which the run does not hold one of."""
    data = run.record.get("data") or {}
    found = data.get("reported") or data.get("choose") if split == run.record.get("reported_split") else None
    return str(found["sha256"]) if found else None


def compare_tables(ours: Predictions, theirs: Predictions) -> Difference:
    """The difference of two tables of the same photographs.

    Raises:
        UsageError: they hold others, or other classes.
    """
    hint = "runs are compared that share data, split and `--split-seed`"
    if sorted(ours.classes) != sorted(theirs.classes):
        raise UsageError("the runs know different classes", hint=hint)
    if sorted(ours.ids) != sorted(theirs.ids):
        only = sorted(set(ours.ids) ^ set(theirs.ids))
        raise UsageError(f"the runs were scored on different photographs: `{only[0]}` is of one alone", hint=hint)
    position = {name: index for index, name in enumerate(theirs.ids)}
    rows = np.array([position[name] for name in ours.ids], np.int64)
    if any(ours.classes[mine] != theirs.classes[other] for mine, other in zip(ours.labels, theirs.labels[rows])):
        raise ZooError("the runs were told different labels of the same photographs", hint=hint)
    after_right = theirs.correct[rows]

    def changes(where: Any, sure: Any) -> tuple[Change, ...]:
        found = [
            Change(
                id=ours.ids[index],
                label=ours.classes[ours.labels[index]],
                before=(ours.classes[ours.predicted[index]], float(ours.probabilities[index].max())),
                after=(theirs.classes[theirs.predicted[rows[index]]], float(theirs.probabilities[rows[index]].max())),
            )
            for index in np.flatnonzero(where)
        ]
        return tuple(sorted(found, key=lambda change: (-sure(change), change.id)))

    fixed = changes(~ours.correct & after_right, lambda change: change.before[1])
    broken = changes(ours.correct & ~after_right, lambda change: change.after[1])
    return Difference(
        split=ours.split,
        images=len(ours),
        before=float(ours.correct.mean()),
        after=float(after_right.mean()),
        fixed=fixed,
        broken=broken,
        p_value=mcnemar_test(after_right, ours.correct),
    )
