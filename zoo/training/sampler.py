"""The sampler: which images a step sees, and the seed of everything random in the step.

Everything random is a pure function of the run's seed and of the position in training. A killed run is therefore
resumed exactly, although checkpoints hold no generator's state.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from zoo.experiment import Experiment

# An image that is sampled for the n-th time (from 0) in an epoch is shown as view `epoch + n * REPEAT`; no run has as
# many epochs
REPEAT = 1_000_000


def epoch_order(labels: np.ndarray[Any, Any], experiment: Experiment, epoch: int) -> np.ndarray[Any, Any]:
    """Image indices of an epoch, from seed and epoch: a permutation, or draws that balance the classes."""
    generator = np.random.default_rng([experiment.seed, epoch])
    if experiment.class_balance != "sample":
        return generator.permutation(len(labels))
    counts = np.bincount(labels)
    shares = 1.0 / counts[labels]
    return generator.choice(len(labels), size=len(labels), p=shares / shares.sum())


def batches(order: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """Cut an epoch's indices into batches; a single image that is left over joins the last batch.

    A batch norm over a 1 x 1 map cannot train on one image, and no image should be left out.
    """
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(cuts) > 1 and len(cuts[-1]) == 1:
        cuts[-2:] = [np.concatenate(cuts[-2:])]
    return cuts


def times_shown(order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For every position of an epoch's order, how often its image was shown before in the epoch."""
    seen: dict[int, int] = {}
    counts = np.zeros(len(order), dtype=np.int64)
    for position, index in enumerate(order.tolist()):
        counts[position] = seen.get(index, 0)
        seen[index] = counts[position] + 1
    return counts


def class_weights(labels: np.ndarray[Any, Any], experiment: Experiment) -> torch.Tensor | None:
    """Weights `(classes,)` with which every class counts equally in the loss; None unless `--class-balance loss`."""
    if experiment.class_balance != "loss":
        return None
    counts = np.bincount(labels)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)


def seed_step(seed: int, epoch: int, batch: int, part: int = 0) -> None:
    """Seed the generators of Python, numpy and torch for a part of a step: dropout, stochastic depth, mixup.

    What a part draws does not depend on the process that computes it, nor on the parts that it has computed before.
    """
    place = [seed, epoch, batch, *([part] if part else [])]
    drawn = np.random.SeedSequence(place).generate_state(2, np.uint64)
    random.seed(int(drawn[0]))
    np.random.seed(int(drawn[0]) & 0xFFFFFFFF)
    torch.manual_seed(int(drawn[1]) >> 1)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the generators of Python, numpy and torch (CPU) at the end."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
