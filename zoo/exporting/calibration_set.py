"""Calibration: the training photographs that an exporter reads the ranges of values off, and chooses on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.data.decoding import decode_all, default_workers
from zoo.data.image import pixels
from zoo.data.splitting import balanced_order
from zoo.errors import UsageError, ZooError
from zoo.exporter import Calibration

if TYPE_CHECKING:
    from zoo.dataset import Images
    from zoo.runs.run import Run

RANGES = 32  # photographs that ranges are read off
FEWEST = 8
CHOICES = 128  # others at most, that is chosen on


def check_count(count: int) -> None:
    """Whether so many photographs tell ranges.

    Raises:
        UsageError: they do not.
    """
    if count < FEWEST:
        raise UsageError(f"{count} photographs tell no ranges", hint=f"pass {FEWEST} or more")


def draw(run: Run, images: Images, count: int) -> Calibration:
    """`count` of the photographs that the run was fitted on, and up to `CHOICES` others, evenly over the classes.

    Raises:
        ZooError: there are too few, or too few can be decoded.
    """
    fitted = run.fitted()
    samples = [sample for part in images.splits.values() for sample in part if sample.id in fitted]
    _require(len(samples), "are there")
    count = min(count, len(samples) // 2)
    shown, labels = [], []
    for sample, result in decode_all(
        balanced_order(samples, run.experiment.seed)[: count + CHOICES], default_workers()
    ):
        if isinstance(result, np.ndarray):
            shown.append(pixels(result, run.preprocess))
            labels.append(run.classes.index(sample.label))
    _require(len(shown), "can be decoded")
    count = min(count, len(shown) // 2)
    batch = np.stack(shown)
    return Calibration(ranges=batch[:count], choices=batch[count:], labels=np.array(labels[count:], np.int64))


def _require(count: int, what: str) -> None:
    if count < 2 * FEWEST:
        raise ZooError(
            f"int8 needs {2 * FEWEST} of the photographs that the run was fitted on, and {count} {what}",
            hint="pass the run's own `--data`, or another `--precision`",
        )
