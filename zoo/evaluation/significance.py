"""Comparison: which of several ways to train cannot be told apart from the best, over the same photographs.

The answer is a set, not a winner. Every pair is tested, and a way is left out of the set only where one of its pairs
is significant after Holm's correction over all of them: so the chance that any of equally good ways is left out stays
below 5 per cent, however many there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from zoo.runs.run import Run

LEVEL = 0.05
POWER = 0.9  # with which a difference as large as the one seen would be found by so many photographs


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ways to train: how much better the first is, and whether chance explains it."""

    better: str
    worse: str
    difference: float  # of accuracy
    p_value: float
    adjusted: float  # by Holm, over all pairs
    needed: int | None  # photographs that would tell so large a difference; None where there is none

    @property
    def told_apart(self) -> bool:
        return self.adjusted <= LEVEL


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Accuracies by name, every pair, and the set of those that nothing else is known to be better than."""

    accuracies: dict[str, float]
    pairs: tuple[Pair, ...]
    winners: tuple[str, ...]  # best first

    def to_json(self) -> dict[str, Any]:
        pairs = [{**vars(pair), "told_apart": pair.told_apart} for pair in self.pairs]
        return {"accuracies": self.accuracies, "winners": list(self.winners), "pairs": pairs}


def compare(correct: Mapping[str, npt.NDArray[np.bool_]]) -> Comparison:
    """Compare ways to train by which photographs they get right, `(seeds, photographs)` each, of the same ones."""
    assert len({table.shape[1] for table in correct.values()}) == 1
    accuracies = {name: float(table.mean()) for name, table in correct.items()}
    ordered = sorted(correct, key=lambda name: -accuracies[name])
    of_all = _pooled(list(correct.values()))
    found = []
    for better, worse in combinations(ordered, 2):
        one, other = correct[better], correct[worse]
        found.append((better, worse, p_value(one, other, of_all), _needed(one, other, math.comb(len(ordered), 2))))
    adjusted = holm([entry[2] for entry in found])
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


def compare_runs(runs: Sequence[Run]) -> Comparison | None:
    """Compare runs that were scored on the same photographs.

    Those that differ by their seed alone are one way to train; None where all are one way.

    Raises:
        ZooError: a run has no predictions.
    """
    ways: dict[str, list[Run]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        asked = {name: value for name, value in run.record["experiment"].items() if name != "seed"}
        ways.setdefault(json.dumps(asked, sort_keys=True), []).append(run)
    if len(ways) < 2:
        return None
    tables: dict[str, npt.NDArray[np.bool_]] = {}
    for some in ways.values():
        found = [run.predictions() for run in some]
        name = f"{some[0].record['backbone']} {some[0].record['strategy']}"
        name = name if name not in tables else f"{name} ({some[0].path})"
        # by their ids: a later evaluation may have left them in another order
        tables[name] = np.array([table.correct[np.argsort(table.ids)] for table in found])
    return compare(tables)


def p_value(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], of_all: Luck | None = None) -> float:
    """Two-sided: of so large a difference, were both equally good.

    One seed each: the exact test of McNemar. Several: Student's t of the difference averaged over seeds, whose variance
    is that over photographs and, where accuracies vary from seed to seed by more than photographs explain, that over
    seeds. Degrees of freedom by Satterthwaite 1946, from all of the variance that each part was found as.

    Two or three seeds say little of how seeds vary, so that `of_all` brings what all ways that are compared say
    together; a way's own counts as the mean of both, where it is the larger one.
    """
    from scipy.stats import binomtest, t

    if len(one) == len(other) == 1:
        first, second = int((one & ~other).sum()), int((~one & other).sum())
        return float(binomtest(first, first + second).pvalue) if first + second else 1.0
    count = one.shape[1]
    differences = one.mean(axis=0) - other.mean(axis=0)
    of_photographs = differences.var(ddof=1) / count
    parts = [(of_photographs, count - 1)]
    between = 0.0
    varied = [(luck.widened(of_all), len(table)) for table in (one, other) if (luck := _luck(table)) is not None]
    for luck, seeds in varied:
        between += max(luck.beyond, 0.0) / seeds
    if between > 0 and of_all is not None:  # both rest on the same
        parts.append((sum(luck.whole / seeds for luck, seeds in varied), of_all.degrees))
    elif between > 0:
        parts += [(luck.whole / seeds, luck.degrees) for luck, seeds in varied]
    variance = of_photographs + between
    if variance == 0:
        return 1.0 if differences.mean() == 0 else 0.0
    degrees = variance**2 / sum(part**2 / its for part, its in parts)
    return float(2 * t.sf(abs(differences.mean()) / math.sqrt(variance), degrees))


@dataclass(frozen=True, kw_only=True)
class Luck:
    """The variance of an accuracy from seed to seed."""

    whole: float
    beyond: float  # less that of photographs that flip by chance; may be below 0
    degrees: int  # of freedom

    def widened(self, of_all: Luck | None) -> Luck:
        """Half of the way from `of_all` to this one, where it is larger; else `of_all`."""
        if of_all is None:
            return self
        return Luck(
            whole=max((self.whole + of_all.whole) / 2, of_all.whole),
            beyond=max((self.beyond + of_all.beyond) / 2, of_all.beyond),
            degrees=of_all.degrees,
        )


def _luck(table: npt.NDArray[np.bool_]) -> Luck | None:
    """Of one way to train; None of one seed."""
    seeds, count = table.shape
    if seeds == 1:
        return None
    share = table.mean(axis=0)
    flips = float((share * (1 - share)).sum()) * seeds / (seeds - 1) / count**2
    whole = float(table.mean(axis=1).var(ddof=1))
    return Luck(whole=whole, beyond=whole - flips, degrees=seeds - 1)


def _pooled(tables: Sequence[npt.NDArray[np.bool_]]) -> Luck | None:
    """Of all ways together; None where all have one seed."""
    found = [luck for table in tables if (luck := _luck(table)) is not None]
    degrees = sum(luck.degrees for luck in found)
    if not degrees:
        return None
    return Luck(
        whole=sum(luck.whole * luck.degrees for luck in found) / degrees,
        beyond=sum(luck.beyond * luck.degrees for luck in found) / degrees,
        degrees=degrees,
    )


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: Holm 1979, "A simple sequentially rejective multiple test procedure"."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    found, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        found[index] = highest
    return found


def _needed(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], pairs: int) -> int | None:
    """Photographs with which such a difference is found in `POWER` of cases, at the level that all pairs leave to one.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design".
    """
    from scipy.stats import norm

    difference = float(one.mean() - other.mean())
    if difference <= 0:
        return None
    discordant = max(float(np.mean([(mine != its).mean() for mine in one for its in other])), difference)
    level, power = norm.isf(LEVEL / pairs / 2), norm.ppf(POWER)
    spread = math.sqrt(max(discordant - difference**2, 0.0))
    needed: float = ((level * math.sqrt(discordant) + power * spread) / difference) ** 2
    return math.ceil(needed)
