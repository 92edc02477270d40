"""Paired difference: the images that only one of two runs classifies correctly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.class_names import keys, respelt
from zoo.errors import UsageError, ZooError
from zoo.evaluation.file_scores import FileScores, is_exported_file, no_run, score_file
from zoo.evaluation.statistics import mcnemar_test, sign_flip_test
from zoo.predictions import Predictions
from zoo.runs.run import Run

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@dataclass(frozen=True, kw_only=True)
class Change:
    """An image that only one of two runs classifies correctly.

    Attributes:
        label: its true class.
        before: class and probability that the first run predicts.
        after: class and probability that the second run predicts.
    """

    id: str
    label: str
    before: tuple[str, float]
    after: tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two runs over the same images.

    Attributes:
        split: that both runs were evaluated on.
        images: their number.
        before: accuracy of the first run, from 0 to 1.
        after: accuracy of the second run, from 0 to 1.
        fixed: images that only the second run has right, the most confident wrong prediction first.
        broken: images that only the first run has right, in the same order.
        p_value: two-sided, of McNemar's exact test: the probability of changes at least as one-sided if both runs were
            equally good.
        files: exported files among the two, each with what differs from the run: classes are matched by name.
    """

    split: str
    images: int
    before: float
    after: float
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]
    p_value: float
    files: tuple[FileScores, ...] = ()

    def per_class(self) -> dict[str, tuple[int, int]]:
        """Numbers of fixed and broken images by class; classes without any are left out."""
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
            **({"files": [one.to_json() for one in self.files]} if self.files else {}),
        }


def diff(
    first: Run | Path | str,
    second: Run | Path | str,
    *,
    split: str | None = None,
    plugins: Plugins | None = None,
) -> Difference:
    """Compare two runs, or a run and an exported file, image by image.

    A file is scored on the images that the run has predictions of, without those of classes that it does not know.

    Args:
        first: a run or its folder, or an exported file.
        second: the same; one of the two is a run.
        split: to compare on; None: the split that the first run reports.
        plugins: loaded plugins, for an exported file; None: load those installed.

    Raises:
        UsageError: a path is not a run, or the runs were evaluated on different images or classes; or both are files.
        ZooError: a run has no predictions of the split, or its images have changed.
    """
    files = [str(model) for model in (first, second) if is_exported_file(model)]
    if len(files) == 2:
        raise no_run(files)
    if files:
        from zoo.plugin import Plugins

        run = Run.open(second if is_exported_file(first) else first)
        table = run.predictions(split)
        scores = score_file(files[0], run, table=table, plugins=plugins or Plugins())
        pair = (scores.of_run, scores.predictions)
        before, after = pair[::-1] if is_exported_file(first) else pair
        return replace(compare_tables(before, after, same_classes=False), files=(scores,))
    one, other = (Run.open(run) for run in (first, second))
    ours = one.predictions(split)
    theirs = other.predictions(ours.split)
    found = compare_tables(ours, theirs)
    if one.same_images(other, ours.split) is False:
        raise UsageError(
            "the runs were evaluated on different photographs: some files have the same name and another content",
            hint="train or evaluate both runs on the same data",
        )
    return found


def compare_tables(ours: Predictions, theirs: Predictions, *, same_classes: bool = True) -> Difference:
    """The difference of two tables of predictions for the same images.

    With `same_classes`, both must have the same; labels are compared by name in any case.

    Raises:
        UsageError: the tables hold different images or different classes.
        ZooError: an image has different labels in the tables.
    """
    hint = "compare runs that share data, split and `--split-seed`"
    our_classes, their_classes = keys(ours.classes), keys(theirs.classes)
    if same_classes and (only := sorted(set(our_classes) ^ set(their_classes))):
        raise UsageError(f"the runs have different classes: `{only[0]}` is in only one of them", hint=hint)
    our_ids, their_ids = keys(ours.ids), keys(theirs.ids)
    if only := sorted(set(our_ids) ^ set(their_ids)):
        raise UsageError(
            f"the runs were evaluated on different photographs: `{only[0]}` is in only one of them", hint=hint
        )
    position = {name: index for index, name in enumerate(their_ids)}
    rows = np.array([position[name] for name in our_ids], np.int64)
    if any(our_classes[mine] != their_classes[other] for mine, other in zip(ours.labels, theirs.labels[rows])):
        raise ZooError("the runs have different labels for the same photographs", hint=hint)
    after_right = theirs.correct[rows]
    spelling = respelt(theirs.classes, ours.classes)

    def changes(where: Any, confidence: Any) -> tuple[Change, ...]:
        found = [
            Change(
                id=ours.ids[index],
                label=ours.classes[ours.labels[index]],
                before=(ours.classes[ours.predicted[index]], float(ours.probabilities[index].max())),
                after=(
                    spelling[theirs.classes[theirs.predicted[rows[index]]]],
                    float(theirs.probabilities[rows[index]].max()),
                ),
            )
            for index in np.flatnonzero(where)
        ]
        return tuple(sorted(found, key=lambda change: (-confidence(change), change.id)))

    fixed = changes(~ours.correct & after_right, lambda change: change.before[1])
    broken = changes(ours.correct & ~after_right, lambda change: change.after[1])
    return Difference(
        split=ours.split,
        images=len(ours),
        before=float(ours.correct.mean()),
        after=float(after_right.mean()),
        fixed=fixed,
        broken=broken,
        p_value=mcnemar_test(after_right, ours.correct)
        if ours.group_numbers is None
        else sign_flip_test(after_right.astype(np.float64) - ours.correct, ours.group_numbers),
    )
