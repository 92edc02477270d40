"""The sampler: which images a step sees, and the seed of all that is random in it.

Everything random is a pure function of the run's seed and of a place in the run, so that a run that was killed goes
on as if nothing had happened, without any generator's state being kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from zoo.experiment import Experiment

# The n-th showing of an image in one epoch is view `epoch + n * REPEAT`; no run has as many epochs
REPEAT = 1_000_000


def epoch_order(labels: np.ndarray[Any, Any], experiment: Experiment, epoch: int) -> np.ndarray[Any, Any]:
    """Indices of an epoch, by seed and epoch: a permutation, or draws that balance the classes."""
    generator = np.random.default_rng([experiment.seed, epoch])
    if experiment.class_balance != "sample":
        return generator.permutation(len(labels))
    counts = np.bincount(labels)
    shares = 1.0 / counts[labels]
    return generator.choice(len(labels), size=len(labels), p=shares / shares.sum())


def batches(order: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """Cut an epoch's indices into batches; a last one of a single image joins the one before.

    A batch norm over a 1 x 1 map cannot train on one image, and no image should be left out.
    """
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(cuts) > 1 and len(cuts[-1]) == 1:
        cuts[-2:] = [np.concatenate(cuts[-2:])]
    return cuts


def showings(order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For every place of an epoch's order, how often its image was shown before in the epoch."""
    seen: dict[int, int] = {}
    counts = np.zeros(len(order), dtype=np.int64)
    for place, index in enumerate(order.tolist()):
        counts[place] = seen.get(index, 0)
        seen[index] = counts[place] + 1
    return counts


def class_weights(labels: np.ndarray[Any, Any], experiment: Experiment) -> torch.Tensor | None:
    """Weights `(classes,)` that make classes count alike in the loss, where that is asked for."""
    if experiment.class_balance != "loss":
        return None
    counts = np.bincount(labels)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)


def seed_step(seed: int, epoch: int, batch: int) -> None:
    """Seed the generators of Python, numpy and torch for one step: dropout, stochastic depth, mixup."""
    drawn = np.random.SeedSequence([seed, epoch, batch]).generate_state(2, np.uint64)
    random.seed(int(drawn[0]))
    np.random.seed(int(drawn[0]) & 0xFFFFFFFF)
    torch.manual_seed(int(drawn[1]) >> 1)


@contextmanager
def own_generators() -> Iterator[None]:
    """Leave the generators of Python, numpy and torch's CPU as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
