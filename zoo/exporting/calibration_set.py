"""Calibration set for int8: training images from which value ranges are read, and others on which choices are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.data.decoding import decode_all, default_workers
from zoo.data.image import pixels
from zoo.data.leakage import digests
from zoo.data.splitting import balanced_order
from zoo.errors import UsageError, ZooError, counted
from zoo.exporter import Calibration

if TYPE_CHECKING:
    from zoo.dataset import Images
    from zoo.runs.run import Run

RANGES = 32  # images that value ranges are read from, by default
FEWEST = 8  # images of either kind
CHOICES = 128  # images on which choices are made, at most


def check_count(count: int) -> None:
    """Check that value ranges can be read from `count` images.

    Raises:
        UsageError: the images are too few.
    """
    if count < FEWEST:
        few = counted(count, "photograph is", "photographs are")
        raise UsageError(f"{few} too few to read value ranges from", hint=f"pass {FEWEST} or more")


def draw(run: Run, images: Images, count: int) -> Calibration:
    """Draw `count` of the images that the run was fitted on, and up to `CHOICES` others, balanced over the classes.

    Where the images are few, at most half of them are for ranges.

    Raises:
        ZooError: there are too few, or too few can be decoded.
    """
    fitted, contents = run.fitted(), run.contents().get("fit", {})
    samples = [sample for part in images.splits.values() for sample in part if sample.id in fitted]
    order = {name: number for number, name in enumerate(contents)}
    samples.sort(key=lambda sample: order.get(sample.id, len(order)))  # the draw depends on it, and splits may differ
    _require(len(samples), "are there")
    count = min(count, len(samples) // 2)
    shown, labels = [], []
    drawn = balanced_order(samples, run.experiment.seed)[: count + CHOICES]
    same = [sample for sample, digest in digests(drawn) if contents.get(sample.id) == digest]
    for sample, result in decode_all(same, default_workers(), levels=run.preprocess.levels):
        if isinstance(result, np.ndarray):
            shown.append(pixels(result, run.preprocess))
            labels.append(run.classes.index(sample.label))
    _require(len(shown), "can be decoded and have not changed")
    count = min(count, len(shown) // 2)
    batch = np.stack(shown)
    return Calibration(ranges=batch[:count], choices=batch[count:], labels=np.array(labels[count:], np.int64))


def _require(count: int, what: str) -> None:
    if count < 2 * FEWEST:
        raise ZooError(
            f"int8 needs {2 * FEWEST} of the run's training photographs, and only {count} {what}",
            hint="pass the run's own `--data`, or another `--precision`",
        )
