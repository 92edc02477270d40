"""Reported images: those of a run's stored predictions, opened again so that another model can be scored on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import keys
from zoo.data.leakage import digests
from zoo.dataset import Sample
from zoo.evaluation.scored_images import open_scored
from zoo.predictions import Predictions
from zoo.runs.run import FOLDS, Run

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@dataclass(frozen=True, kw_only=True)
class ReportedImages:
    """The images of a table of a run's predictions, as they are now.

    Attributes:
        samples: Those that are there with the content that they had, or of which the content then is unknown.
        rows: The row of the table that each of them is in, by its id.
        contents: SHA-256 of each, by its id.
        gone: Ids of the table that are no longer in the data, or cannot be read.
        changed: Ids of the table that have another content now.
    """

    samples: Sequence[Sample]
    rows: Mapping[str, int]
    contents: Mapping[str, str]
    gone: tuple[str, ...]
    changed: tuple[str, ...]


def open_reported(run: Run, table: Predictions, plugins: Plugins) -> ReportedImages:
    """Open the data of a run again, and find the images of a table of its predictions.

    Raises:
        UsageError, ZooError: the data cannot be opened.
    """
    split = "all" if table.split == FOLDS else table.split
    _, _, samples = open_scored(run.experiment.data, split, run.experiment.split_seed, run, plugins)
    wanted = {key: row for row, key in enumerate(keys(table.ids))}
    found = {key: sample for sample, key in zip(samples, keys([sample.id for sample in samples])) if key in wanted}
    was: dict[str, str] = {}
    for role, part in run.contents().items():
        if role in ("reported", "choose"):
            was |= dict(zip(keys(list(part)), part.values()))
    now = {sample.id: digest for sample, digest in digests(found.values())}
    there = {key: sample for key, sample in found.items() if sample.id in now}
    same = {key: sample for key, sample in there.items() if now[sample.id] == was.get(key, now[sample.id])}
    return ReportedImages(
        samples=tuple(same[key] for key in wanted if key in same),
        rows={sample.id: wanted[key] for key, sample in same.items()},
        contents={sample.id: now[sample.id] for sample in same.values()},
        gone=tuple(table.ids[row] for key, row in wanted.items() if key not in there),
        changed=tuple(table.ids[row] for key, row in wanted.items() if key in there and key not in same),
    )


def rows_of(table: Predictions, rows: Sequence[int]) -> Predictions:
    """Some rows of a table, in the order in which they are given."""
    return replace(
        table,
        ids=tuple(table.ids[row] for row in rows),
        labels=table.labels[np.asarray(rows, np.int64)],
        logits=table.logits[np.asarray(rows, np.int64)],
        groups=None if table.groups is None else tuple(table.groups[row] for row in rows),
        unknown=None if table.unknown is None else table.unknown[np.asarray(rows, np.int64)],
    )


def rows_of_classes(table: Predictions, classes: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which rows of a table have a label among `classes`, `(N,)`; names count in any Unicode form."""
    known = set(keys(list(classes)))
    held = np.array([key in known for key in keys(table.classes)])
    chosen: npt.NDArray[np.bool_] = held[table.labels]
    return chosen


def answers_among(table: Predictions, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which images a model has right if it may answer these classes alone, `(N,)`; all labels are among them."""
    place = {key: index for index, key in enumerate(keys(table.classes))}
    columns = np.array([place[key] for key in keys(classes)])
    right: npt.NDArray[np.bool_] = columns[table.logits[:, columns].argmax(1)] == table.labels
    return right
