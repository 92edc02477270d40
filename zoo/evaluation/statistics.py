"""Statistics: intervals and tests for accuracies over the same images. Each function names its source.

All intervals have a confidence of 95 %. Unit tests compare every function with another implementation or with figures
of its paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import keys
from zoo.predictions import Predictions

Correct = npt.NDArray[np.bool_]  # whether images were classified correctly: (images,) or (seeds, images)

RESAMPLES = 4000  # of a bootstrap; with so many, the bounds of a 95 % interval vary by a tenth of its width


def correct(tables: Sequence[Predictions]) -> Correct:
    """Which images each table of predictions has right: `(tables, images)`, ordered by the images' ids."""
    return np.array([table.correct[np.argsort(keys(table.ids))] for table in tables])


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Interval of the share `right` / `count`.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def bootstrap_interval(table: Correct, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of `(seeds, images)` by the percentile bootstrap, with images and seeds drawn anew.

    Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. For an accuracy of 0 or 1 that interval
    would have no width, so Wilson's is returned.
    """
    seeds, count = table.shape
    total = int(table.sum())
    if total in (0, table.size):
        return wilson_interval(total // seeds, count)
    generator = np.random.default_rng(seed)
    of_images = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = ((of_seeds @ table.astype(np.float64)) * of_images).sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def paired_difference_interval(one: Correct, other: Correct) -> tuple[float, float]:
    """Interval of the share of `one` minus the share of `other`, `(images,)` each, over the same images.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10: from Wilson's intervals of both shares and their correlation. Its width is above 0 even where the two do
    not differ.
    """
    count = len(one)
    both, first_only = int((one & other).sum()), int((one & ~other).sum())
    second_only = int((~one & other).sum())
    neither = count - both - first_only - second_only
    first, second = (both + first_only) / count, (both + second_only) / count
    of_first, of_second = (wilson_interval(int(side.sum()), count) for side in (one, other))
    spread = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    correlation = 0.0
    if spread > 0:
        product = both * neither - first_only * second_only
        corrected = max(product - count / 2, 0) if product > 0 else product
        correlation = corrected / spread**0.5

    def side(a: float, b: float) -> float:
        return math.sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0))

    low = side(first - of_first[0], of_second[1] - second)
    high = side(second - of_second[0], of_first[1] - first)
    return first - second - low, first - second + high


def mcnemar_test(one: Correct, other: Correct) -> float:
    """Two-sided p-value of McNemar's exact test for `(images,)` each, over the same images.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    from scipy.stats import binomtest

    first_only, second_only = int((one & ~other).sum()), int((~one & other).sum())
    if first_only + second_only == 0:
        return 1.0
    return float(binomtest(first_only, first_only + second_only).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for the number of tests, in the order given.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    found, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        found[index] = highest
    return found


def images_needed(discordant: float, difference: float, *, level: float, power: float) -> int:
    """Number of images with which a paired difference is significant at `level` with probability `power`.

    `discordant` is the share of images that exactly one of the two has right, `difference` that of their accuracies.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design".
    """
    from scipy.stats import norm

    of_level, of_power = norm.isf(level / 2), norm.ppf(power)
    spread = math.sqrt(max(discordant - difference**2, 0.0))
    needed: float = ((of_level * math.sqrt(discordant) + of_power * spread) / difference) ** 2
    return math.ceil(needed)


def trimmed_mean_lower_bound(values: npt.NDArray[np.float64], trimmed: float) -> float:
    """Lower bound of the 95 % interval of the trimmed mean, which leaves out the share `trimmed` at either end.

    Tukey and McLaughlin 1963, "Less vulnerable confidence and significance procedures for location".
    """
    from scipy.stats.mstats import trimmed_mean_ci

    low, _ = trimmed_mean_ci(values, limits=(trimmed, trimmed), alpha=0.05)
    return float(low)
