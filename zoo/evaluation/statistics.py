"""Statistics: intervals and tests for accuracies over the same images. Each function names its source.

All intervals have a confidence of 95 %. Unit tests compare every function with another implementation or with figures
of its paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import keys
from zoo.predictions import Predictions

Correct = npt.NDArray[np.bool_]  # whether images were classified correctly: (images,) or (seeds, images)

Z = NormalDist().inv_cdf(0.975)  # half the width of a 95 % interval, in standard errors
RESAMPLES = 4000  # of a bootstrap; with so many, the bounds of a 95 % interval vary by a tenth of its width


def correct(tables: Sequence[Predictions]) -> Correct:
    """Which images each table of predictions has right: `(tables, images)`, ordered by the images' ids."""
    return np.array([table.correct[np.argsort(keys(table.ids))] for table in tables])


def groups_of(tables: Sequence[Predictions]) -> npt.NDArray[np.int64] | None:
    """The number of each image's group, in the order of `correct`; None where no table has groups."""
    for table in tables:
        if table.group_numbers is not None:
            return table.group_numbers[np.argsort(keys(table.ids))]
    return None


def wilson_interval(right: int, count: int, *, level: float = 0.05) -> tuple[float, float]:
    """Interval of the share `right` / `count`; of another confidence than 95 % with `level`.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    squared = (Z if level == 0.05 else NormalDist().inv_cdf(1 - level / 2)) ** 2
    centre = right + squared / 2
    side = math.sqrt(squared * (right * (count - right) / count + squared / 4))
    low, high = (centre - side) / (count + squared), (centre + side) / (count + squared)
    return 0.0 if right == 0 else low, 1.0 if right == count else high


def accuracy_interval(table: Predictions) -> tuple[float, float]:
    """Interval of the accuracy: Wilson's over images or, where these are in groups, `grouped_interval`."""
    if table.group_numbers is None:
        return wilson_interval(int(table.correct.sum()), len(table))
    return grouped_interval(table.correct, table.group_numbers)


def grouped_interval(right: Correct, groups: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Interval of the share of `right` `(images,)`, where images of one group may be alike.

    Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data": Wilson's interval for as many independent images as have the variance of the groups,
    with Student's t for their number. Where all images are right, or none is, that variance is unknown; each group then
    counts as one image. The interval is never narrower than that of as many images without groups.
    """
    from scipy.stats import t

    count = len(right)
    share = float(right.mean())
    sizes = np.bincount(groups).astype(np.float64)
    number = int((sizes > 0).sum())
    if number < 2:
        return 0.0, 1.0
    if share in (0.0, 1.0):
        effective = float(number)
    else:
        variance = mean_variance(right.astype(np.float64) - share, groups)
        effective = count if variance == 0 else min(share * (1 - share) / variance, count)
    effective *= (Z / float(t.ppf(0.975, number - 1))) ** 2
    squared = Z**2
    centre = share * effective + squared / 2
    side = math.sqrt(squared * (effective * share * (1 - share) + squared / 4))
    low, high = (centre - side) / (effective + squared), (centre + side) / (effective + squared)
    return 0.0 if share == 0 else low, 1.0 if share == 1 else high


def mean_variance(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Variance of the mean of values `(images,)` that are 0 on average, over groups that are drawn, not images.

    Cochran 1977, "Sampling techniques", section 9A.
    """
    sums = np.bincount(groups, weights=values)[np.bincount(groups) > 0]
    return float((sums**2).sum()) * len(sums) / (len(sums) - 1) / len(values) ** 2


def difference_interval(one: tuple[int, int], other: tuple[int, int], *, level: float = 0.05) -> tuple[float, float]:
    """Interval of the share of `one` minus the share of `other`, each (right, count), of different images.

    Newcombe 1998, "Interval estimation for the difference between independent proportions: comparison of eleven
    methods", method 10: from Wilson's intervals of both shares.
    """
    first, second = one[0] / one[1], other[0] / other[1]
    of_first, of_second = (wilson_interval(*side, level=level) for side in (one, other))
    low = math.hypot(first - of_first[0], of_second[1] - second)
    high = math.hypot(of_first[1] - first, second - of_second[0])
    return first - second - low, first - second + high


def superiority_interval(share: float, one: int, other: int) -> tuple[float, float]:
    """Interval of the probability that a value of `one` images is larger than one of `other` images.

    `share` is the estimate: Mann and Whitney's U / (one x other), from 0 to 1.

    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2",
    method 5: the values that differ from the estimate by 1.96 of their own standard errors, which are Hanley's and
    McNeil's. Its width is above 0 even where all values of one side are the larger ones.
    """
    mean = (one + other) / 2

    def apart(value: float) -> float:
        spread = value * (1 - value)
        spread *= 1 + (mean - 1) * ((1 - value) / (2 - value) + value / (1 + value))
        return (value - share) ** 2 - Z**2 * spread / (one * other)

    def root(inside: float, outside: float) -> float:
        if apart(outside) <= 0:
            return outside
        for _ in range(40):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if apart(middle) <= 0 else (inside, middle)
        return (inside + outside) / 2

    return root(share, 0.0), root(share, 1.0)


def seeds_interval(tables: Sequence[Predictions]) -> tuple[float, float]:
    """Interval of the mean accuracy of runs that differ by their seed, over images and seeds.

    Of a single run it is the interval that the run itself reports, so that one figure has one interval.
    """
    if len(tables) == 1:
        return accuracy_interval(tables[0])
    return bootstrap_interval(correct(tables), groups=groups_of(tables))


def bootstrap_interval(
    table: Correct, seed: int = 0, groups: npt.NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Interval of the mean of `(seeds, images)` by the percentile bootstrap, with images and seeds drawn anew.

    Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. For an accuracy of 0 or 1 that interval
    would have no width, so Wilson's is returned. With `groups` `(images,)`, whole groups are drawn, not images (Davison
    and Hinkley 1997, "Bootstrap methods and their application", section 3.8); of so few groups that this interval would
    be too narrow, it is that of `grouped_interval` where that is wider.
    """
    seeds, count = table.shape
    total = int(table.sum())
    if groups is not None:
        return _group_bootstrap_interval(table, seed, groups)
    if total in (0, table.size):
        return wilson_interval(total // seeds, count)
    generator = np.random.default_rng(seed)
    of_images = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = ((of_seeds @ table.astype(np.float64)) * of_images).sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _group_bootstrap_interval(table: Correct, seed: int, groups: npt.NDArray[np.int64]) -> tuple[float, float]:
    """See `bootstrap_interval`."""
    seeds = len(table)
    by_seed = [grouped_interval(row, groups) for row in table]
    low, high = (float(np.mean([one[end] for one in by_seed])) for end in (0, 1))
    if table.all() or not table.any() or len(np.unique(groups)) < 2:
        return low, high
    numbers = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    sums = np.array([np.bincount(numbers, weights=row) for row in table.astype(np.float64)])  # seeds x groups
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=RESAMPLES)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = ((of_seeds @ sums) * drawn).sum(axis=1) / (drawn @ sizes)
    first, last = np.percentile(means, (2.5, 97.5))
    return min(low, float(first)), max(high, float(last))


def paired_difference_interval(one: Correct, other: Correct) -> tuple[float, float]:
    """Interval of the share of `one` minus the share of `other`, `(images,)` each, over the same images.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10: from Wilson's intervals of both shares and their correlation. Its width is above 0 even where the two do
    not differ.
    """
    both, first_only = int((one & other).sum()), int((one & ~other).sum())
    second_only = int((~one & other).sum())
    return paired_interval_of_counts(both, first_only, second_only, len(one) - both - first_only - second_only)


def paired_interval_of_counts(both: int, first_only: int, second_only: int, neither: int) -> tuple[float, float]:
    """`paired_difference_interval`, from the numbers of images that both, one or none of the two has."""
    count = both + first_only + second_only + neither
    first, second = (both + first_only) / count, (both + second_only) / count
    of_first, of_second = (wilson_interval(both + only, count) for only in (first_only, second_only))
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


def paired_group_interval(one: Correct, other: Correct, groups: npt.NDArray[np.int64]) -> tuple[float, float]:
    """`paired_difference_interval` where images of one group may be alike: over groups that are drawn, not images.

    Student's t with the variance of the mean over groups (Cochran 1977, "Sampling techniques", section 9A), and never
    narrower than the interval of as many images without groups. Where no image differs between the two, that variance
    is unknown, and each group counts as one image.
    """
    from scipy.stats import t

    differences = one.astype(np.float64) - other
    count, number = len(one), len(np.unique(groups))
    mean = float(differences.mean())
    low, high = paired_difference_interval(one, other)
    if number < 2:
        return -1.0, 1.0
    variance = mean_variance(differences - mean, groups)
    if variance == 0:
        wider = math.sqrt(count / number)
        return max(mean - wider * (mean - low), -1.0), min(mean + wider * (high - mean), 1.0)
    side = float(t.ppf(0.975, number - 1)) * math.sqrt(variance)
    return max(min(low, mean - side), -1.0), min(max(high, mean + side), 1.0)


def mcnemar_test(one: Correct, other: Correct) -> float:
    """Two-sided p-value of McNemar's exact test for `(images,)` each, over the same images.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    from scipy.stats import binomtest

    first_only, second_only = int((one & ~other).sum()), int((~one & other).sum())
    if first_only + second_only == 0:
        return 1.0
    return float(binomtest(first_only, first_only + second_only).pvalue)


def sign_flip_test(differences: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Two-sided p-value that groups of images do not differ: the share of all choices of signs of the groups' sums of
    `differences` `(images,)`, whole numbers, whose sum is at least as far from 0.

    Exact, by convolution. Where each image is its own group this is McNemar's exact test. Fisher 1935, "The design of
    experiments", section 21.
    """
    sums = np.rint(np.abs(np.bincount(groups, weights=differences))).astype(np.int64)
    sums = sums[sums > 0]
    seen = abs(round(float(differences.sum())))
    if not len(sums):
        return 1.0
    most = int(sums.sum())
    chances = np.zeros(2 * most + 1)  # of each sum from -most to most
    chances[most] = 1.0
    for one in sums:
        halved = chances / 2
        chances = np.zeros_like(chances)
        chances[one:] += halved[:-one]
        chances[:-one] += halved[one:]
    totals = np.abs(np.arange(-most, most + 1))
    return min(float(chances[totals >= seen].sum()), 1.0)


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
