"""Significance: which of several configurations are not significantly worse than the best, over the same images.

The answer is a set, not one winner. Every pair is tested, and a configuration leaves the set only where one of its
pairs is significant after Holm's correction over all pairs. The chance that any of equally good configurations leaves
the set therefore stays below 5 %, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.evaluation.statistics import Correct, correct, holm, images_needed, mcnemar_test
from zoo.runs.run import Run
from zoo.storage.files import json_text

LEVEL = 0.05
POWER = 0.9  # probability of finding a difference as large as the one seen


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two configurations: by how much the first is better, and whether chance explains it.

    Attributes:
        difference: of their accuracies.
        p_value: before the correction.
        adjusted: the p-value after Holm's correction over all pairs.
        needed: number of images with which such a difference would be significant in 90 % of cases; None where there is
            no difference.
    """

    better: str
    worse: str
    difference: float
    p_value: float
    adjusted: float
    needed: int | None

    @property
    def told_apart(self) -> bool:
        """Whether the difference is significant."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of several configurations over the same images.

    Attributes:
        accuracies: by configuration, the best first.
        pairs: every pair of configurations.
        winners: the configurations that are not significantly worse than any other, the best first.
    """

    accuracies: dict[str, float]
    pairs: tuple[Pair, ...]
    winners: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        pairs = [{**vars(pair), "told_apart": pair.told_apart} for pair in self.pairs]
        return {"accuracies": self.accuracies, "winners": list(self.winners), "pairs": pairs}


def compare(runs: Sequence[Run | Path | str]) -> Comparison | None:
    """Compare runs that were evaluated on the same images.

    Runs that differ only in their seed are one configuration; returns None where all runs are.

    Raises:
        UsageError: a path is not a run, or the runs were evaluated on different images.
        ZooError: a run has no predictions.
    """
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    configurations: dict[str, list[Run]] = {}
    for run in {run.path.resolve(): run for run in opened}.values():
        asked = {name: value for name, value in run.record["experiment"].items() if name != "seed"}
        configurations.setdefault(json_text(asked, sort_keys=True, ascii_only=True), []).append(run)
    if len(configurations) < 2:
        return None
    tables: dict[str, Correct] = {}
    images: set[tuple[str, ...]] = set()
    for some in configurations.values():
        found = [run.predictions() for run in some]
        images |= {tuple(sorted(table.ids)) for table in found}
        if len(images) > 1:
            raise UsageError(
                "the runs were evaluated on different images",
                hint="compare runs that share data, split and `--split-seed`",
            )
        name = f"{some[0].record['backbone']} {some[0].record['strategy']}"
        name = name if name not in tables else f"{name} ({some[0].path})"
        tables[name] = correct(found)
    return compare_configurations(tables)


def compare_configurations(tables: Mapping[str, Correct]) -> Comparison:
    """Compare configurations over the same images; a table `(seeds, images)` says which images each has right."""
    assert len({table.shape[1] for table in tables.values()}) == 1
    accuracies = {name: float(table.mean()) for name, table in tables.items()}
    ordered = sorted(tables, key=lambda name: -accuracies[name])
    pooled = _pooled(list(tables.values()))
    found = []
    for better, worse in combinations(ordered, 2):
        one, other = tables[better], tables[worse]
        found.append((better, worse, p_value(one, other, pooled), _needed(one, other, math.comb(len(ordered), 2))))
    adjusted = holm([value for _, _, value, _ in found])
    pairs = tuple(
        Pair(
            better=better,
            worse=worse,
            difference=accuracies[better] - accuracies[worse],
            p_value=value,
            adjusted=corrected,
            needed=needed,
        )
        for (better, worse, value, needed), corrected in zip(found, adjusted)
    )
    lost = {pair.worse for pair in pairs if pair.told_apart}
    return Comparison(
        accuracies={name: accuracies[name] for name in ordered},
        pairs=pairs,
        winners=tuple(name for name in ordered if name not in lost),
    )


def p_value(one: Correct, other: Correct, pooled: SeedVariance | None = None) -> float:
    """Two-sided p-value for the difference of two configurations, `(seeds, images)` each.

    With one seed each, this is McNemar's exact test. With several, it is Student's t of the difference averaged over
    seeds. The variance is that over images, plus that over seeds where accuracies vary from seed to seed by more than
    images explain. Degrees of freedom are those of Satterthwaite 1946 for such a sum of estimated variances.

    Two or three seeds give a poor estimate of the variance over seeds. `pooled` is the variance over the seeds of all
    configurations. It replaces a configuration's own variance where that is smaller; where that is larger, the mean of
    both is used.
    """
    from scipy.stats import t

    if len(one) == len(other) == 1:
        return mcnemar_test(one[0], other[0])
    count = one.shape[1]
    differences = one.mean(axis=0) - other.mean(axis=0)
    over_images = differences.var(ddof=1) / count
    parts = [(over_images, count - 1)]
    over_seeds = 0.0
    varied = [
        (found.widened(pooled), len(table)) for table in (one, other) if (found := _seed_variance(table)) is not None
    ]
    for found, seeds in varied:
        over_seeds += max(found.beyond, 0.0) / seeds
    if over_seeds > 0 and pooled is not None:  # both rest on the same estimate
        parts.append((sum(found.whole / seeds for found, seeds in varied), pooled.degrees))
    elif over_seeds > 0:
        parts += [(found.whole / seeds, found.degrees) for found, seeds in varied]
    variance = over_images + over_seeds
    if variance == 0:
        return 1.0 if differences.mean() == 0 else 0.0
    degrees = variance**2 / sum(part**2 / its for part, its in parts)
    return float(2 * t.sf(abs(differences.mean()) / math.sqrt(variance), degrees))


@dataclass(frozen=True, kw_only=True)
class SeedVariance:
    """The variance of an accuracy from seed to seed."""

    whole: float
    beyond: float  # without the part that single images explain, which change by chance; may be below 0
    degrees: int  # of freedom

    def widened(self, pooled: SeedVariance | None) -> SeedVariance:
        """The mean of `pooled` and this one where this one is larger; else `pooled`."""
        if pooled is None:
            return self
        return SeedVariance(
            whole=max((self.whole + pooled.whole) / 2, pooled.whole),
            beyond=max((self.beyond + pooled.beyond) / 2, pooled.beyond),
            degrees=pooled.degrees,
        )


def _seed_variance(table: Correct) -> SeedVariance | None:
    """The seed variance of one configuration; None for a single seed."""
    seeds, count = table.shape
    if seeds == 1:
        return None
    share = table.mean(axis=0)
    flips = float((share * (1 - share)).sum()) * seeds / (seeds - 1) / count**2
    whole = float(table.mean(axis=1).var(ddof=1))
    return SeedVariance(whole=whole, beyond=whole - flips, degrees=seeds - 1)


def _pooled(tables: Sequence[Correct]) -> SeedVariance | None:
    """The seed variance of all configurations together; None where all have a single seed."""
    found = [variance for table in tables if (variance := _seed_variance(table)) is not None]
    degrees = sum(variance.degrees for variance in found)
    if not degrees:
        return None
    return SeedVariance(
        whole=sum(variance.whole * variance.degrees for variance in found) / degrees,
        beyond=sum(variance.beyond * variance.degrees for variance in found) / degrees,
        degrees=degrees,
    )


def _needed(one: Correct, other: Correct, pairs: int) -> int | None:
    """Number of images with which the difference would be significant in `POWER` of cases, corrected for all pairs."""
    difference = float(one.mean() - other.mean())
    if difference <= 0:
        return None
    discordant = max(float(np.mean([(a != b).mean() for a in one for b in other])), difference)
    return images_needed(discordant, difference, level=LEVEL / pairs, power=POWER)
