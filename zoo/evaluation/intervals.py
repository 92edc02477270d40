"""Intervals of accuracies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zoo.predictions import Predictions

RESAMPLES = 4000  # of a bootstrap: the ends of a 95 % interval then vary by a tenth of its width


def correct(tables: Sequence[Predictions]) -> npt.NDArray[np.bool_]:
    """Which photographs each table gets right, `(seeds, photographs)`, in the order of their ids."""
    return np.array([table.correct[np.argsort(table.ids)] for table in tables])


def interval(table: npt.NDArray[np.bool_], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of `(seeds, photographs)`: bootstrap, photographs and seeds drawn anew each time.

    Of one seed and an accuracy of 0 or 1 a bootstrap has no width; there it is Wilson's.
    """
    seeds, count = table.shape
    total = int(table.sum())
    if total in (0, table.size):
        from scipy.stats import binomtest

        found = binomtest(total // seeds, count).proportion_ci(method="wilson")
        return float(found.low), float(found.high)
    generator = np.random.default_rng(seed)
    of_images = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = ((of_seeds @ table.astype(np.float64)) * of_images).sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
