"""Significance: which of several configurations are not significantly worse than the best, over the same images.

The answer is a set, not one winner. Every pair is tested, and a configuration leaves the set only where one of its
pairs is significant after Holm's correction over all pairs. The chance that any of equally good configurations leaves
the set therefore stays below 5 %, however many there are, and however unequal their numbers of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.config.arguments import as_list
from zoo.data.class_names import keys
from zoo.errors import UsageError
from zoo.evaluation.file_scores import FileScores, is_exported_file, no_run, score_file
from zoo.evaluation.reported_images import rows_of
from zoo.evaluation.statistics import (
    Correct,
    correct,
    groups_of,
    holm,
    images_needed,
    mcnemar_test,
    mean_variance,
    sign_flip_test,
)
from zoo.predictions import Predictions
from zoo.runs.run import Run
from zoo.storage.files import json_text

if TYPE_CHECKING:
    from zoo.plugin import Plugins

LEVEL = 0.05
POWER = 0.9  # probability of finding a difference as large as the one seen
# Degrees of freedom: with fewer, so little is known about other seeds that only large differences can be significant
FEWEST_DEGREES = 3
NODES = 256  # of a quadrature; p-values then have three correct digits

# Settings that change neither the network nor its figures, so that runs that differ in them are repetitions. Those that
# leave images out count by what is left: data are compared by their contents
WITHOUT_EFFECT = ("workers", "save_every", "cache", "on_bad_image", "exclude", "on_leak", "leak_check")


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
        seeds: number of seeds by configuration.
        seed_degrees: degrees of freedom of the variance from seed to seed, over all configurations; 0: it is unknown.
        caution: why the winners hold for these seeds alone; None: they do not.
        repeated: runs that are left out, because they repeat the settings and the seed of another.
        files: exported files that were compared, each with what differs from the first run.
    """

    accuracies: dict[str, float]
    pairs: tuple[Pair, ...]
    winners: tuple[str, ...]
    seeds: dict[str, int]
    seed_degrees: int
    caution: str | None
    repeated: tuple[str, ...] = ()
    files: tuple[FileScores, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracies": self.accuracies,
            "winners": list(self.winners),
            "pairs": [{**vars(pair), "told_apart": pair.told_apart} for pair in self.pairs],
            "seeds": self.seeds,
            "seed_degrees": self.seed_degrees,
            "caution": self.caution,
            "repeated": list(self.repeated),
            **({"files": [one.to_json() for one in self.files]} if self.files else {}),
        }


def compare(
    runs: Sequence[Run | Path | str] | Run | Path | str, *, plugins: Plugins | None = None
) -> Comparison | None:
    """Compare runs that were evaluated on the same images, and exported files with them.

    Runs that differ only in their seed are one configuration; returns None where all runs are. A run that repeats the
    settings and the seed of another is left out, since it is no further seed. An exported file is scored on the images
    of the first run; those of classes that a file does not know are left out for all.

    Args:
        runs: runs or their folders, and exported files; one of them at least is a run.
        plugins: loaded plugins, for exported files; None: load those installed.

    Raises:
        UsageError: a path is not a run, or the runs were evaluated on different images; or there are files alone.
        ZooError: a run has no predictions, or its images have changed.
    """
    models = as_list(runs, Run)
    files = [str(model) for model in models if is_exported_file(model)]
    opened = [Run.open(model) for model in models if not is_exported_file(model)]
    if files and not opened:
        raise no_run(files)
    scores = _file_scores(files, opened[0], plugins) if files else ()
    compared = set.intersection(*(set(keys(one.of_run.ids)) for one in scores)) if scores else None
    if compared is not None and not compared:
        raise UsageError("no class is known to all of the files", hint="compare them one by one")
    configurations: dict[str, list[Run]] = {}
    repeated: list[str] = []
    for run in {run.path.resolve(): run for run in opened}.values():
        some = configurations.setdefault(_settings(run), [])
        if any(other.experiment.seed == run.experiment.seed for other in some):
            repeated.append(str(run.path))
        else:
            some.append(run)
    if len(configurations) + len(scores) < 2:
        return None
    tables: dict[str, Correct] = {}
    groups: npt.NDArray[np.int64] | None = None
    images: set[tuple[tuple[str, str], ...]] = set()
    for some in configurations.values():
        found = [run.predictions() for run in some]
        images |= {tuple(sorted(zip(keys(table.ids), _labels(table)))) for table in found}
        differ = any(opened[0].same_images(run, table.split) is False for run, table in zip(some, found))
        if len(images) > 1 or differ:
            raise UsageError(
                "the runs were evaluated on different images",
                hint="compare runs that share data, split and `--split-seed`",
            )
        name = f"{some[0].record['backbone']} {some[0].record['strategy']}"
        name = name if some[0].combined is None else f"{name} ({some[0].combined})"
        name = name if name not in tables else f"{name} ({some[0].path})"
        found = [_only(table, compared) for table in found]
        tables[name] = correct(found)
        groups = groups_of(found) if groups is None else groups
    for one in scores:
        tables[one.file] = correct([_only(one.predictions, compared)])
    return replace(compare_configurations(tables, groups), repeated=tuple(repeated), files=scores)


def _file_scores(files: Sequence[str], run: Run, plugins: Plugins | None) -> tuple[FileScores, ...]:
    """Every exported file on the images of a run."""
    from zoo.plugin import Plugins

    loaded = plugins or Plugins()
    return tuple(score_file(file, run, plugins=loaded) for file in dict.fromkeys(files))


def _only(table: Predictions, compared: Collection[str] | None) -> Predictions:
    """The rows of a table that are compared; None: all."""
    if compared is None:
        return table
    return rows_of(table, [row for row, key in enumerate(keys(table.ids)) if key in compared])


def _labels(table: Predictions) -> Iterator[str]:
    """The true class of each image, by what it is compared by."""
    names = keys(table.classes)
    return (names[label] for label in table.labels)


def _settings(run: Run) -> str:
    """What a run was trained with, apart from its seed; data count by their contents, not by their path."""
    left_out = ("seed", "data", "from_run", *WITHOUT_EFFECT)
    asked = {name: value for name, value in run.experiment.to_json().items() if name not in left_out}
    before = run.record.get("from")
    if before:
        asked["from"] = before["weights_sha256"]  # wherever the run lies that it goes on from
    made = [run.record.get(kind) for kind in ("soup", "ensemble")]  # of other runs, so it is not one more seed
    return json_text([asked, run.data_key(), *(one for one in made if one)], sort_keys=True, ascii_only=True)


def compare_configurations(tables: Mapping[str, Correct], groups: npt.NDArray[np.int64] | None = None) -> Comparison:
    """Compare configurations over the same images; a table `(seeds, images)` says which images each has right.

    With `groups` `(images,)`, tests are over groups of images, since those of one group may be alike.
    """
    assert len({table.shape[1] for table in tables.values()}) == 1
    accuracies = {name: float(table.mean()) for name, table in tables.items()}
    ordered = sorted(tables, key=lambda name: -accuracies[name])
    pooled = _pooled(list(tables.values()))
    found = []
    for better, worse in combinations(ordered, 2):
        one, other = tables[better], tables[worse]
        found.append(
            (better, worse, p_value(one, other, pooled, groups), _needed(one, other, math.comb(len(ordered), 2)))
        )
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
        seeds={name: len(tables[name]) for name in ordered},
        seed_degrees=pooled.degrees if pooled is not None else 0,
        caution=_caution(list(tables.values()), pooled),
    )


def _caution(tables: Sequence[Correct], pooled: SeedVariance | None) -> str | None:
    """Why the winners hold for these seeds alone; None where they do not."""
    if pooled is None:
        single = any(len(table) == 1 for table in tables)
        words = "no configuration was repeated with another seed, so" if single else None
    elif pooled.degrees < FEWEST_DEGREES:
        times = (
            "one run with another seed tells"
            if pooled.degrees == 1
            else f"{pooled.degrees} runs with another seed tell"
        )
        words = f"only {times} how accuracy varies from seed to seed, so only large differences can be significant, and"
    else:
        words = None
    return words and f"{words} the winners hold for these seeds alone; repeat with more seeds"


def p_value(
    one: Correct,
    other: Correct,
    pooled: SeedVariance | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> float:
    """Two-sided p-value for the difference of two configurations, `(seeds, images)` each.

    Where seeds have no effect, because there is one of each or all rows are equal, this is McNemar's exact test. Else
    it is a generalised p-value of the difference averaged over seeds (Tsui and Weerahandi 1989, "Generalized p-values
    in significance testing of hypotheses in the presence of nuisance parameters"): Student's t given the variance from
    seed to seed, averaged over what that variance may be after so few seeds. Where images add nothing, it equals
    Student's t with the degrees of freedom of the seeds. Where seeds add nothing, it is Student's t over images.

    Two or three seeds give a poor estimate of the variance over seeds. `pooled` is the variance over the seeds of all
    configurations; None: of these two. It replaces a configuration's own variance where that is smaller, or unknown for
    a single seed; where that is larger, the mean of both is used.

    With `groups` `(images,)`, groups take the place of images: signs of whole groups are flipped in place of McNemar's
    test, and Student's t is over groups.
    """
    from scipy.stats import t

    pooled = pooled or _pooled([one, other])
    varied = [table for table in (one, other) if not _seed_has_no_effect(table)]
    if pooled is None or not varied:
        if groups is not None:
            return sign_flip_test(one[0].astype(np.float64) - other[0], groups)
        return mcnemar_test(one[0], other[0])
    count = one.shape[1]
    differences = one.mean(axis=0) - other.mean(axis=0)
    mean = float(abs(differences.mean()))
    if mean == 0:
        return 1.0
    whole = of_images = 0.0
    for table in varied:
        own = _seed_variance(table)
        found = pooled if own is None else own.widened(pooled)
        whole += found.whole / len(table)
        of_images += (found.whole - found.beyond) / len(table)
    factors, weights = _variance_factors(pooled.degrees)
    beyond = np.maximum(whole * factors - of_images, 0.0)  # what the variance over seeds may be
    number = count if groups is None else len(np.unique(groups))
    if number < 2:
        return 1.0
    of_all = differences.var(ddof=1) / count
    if groups is not None:
        of_all = mean_variance(differences - differences.mean(), groups)
    variance = of_all + beyond
    with np.errstate(divide="ignore"):
        return min(float(weights @ (2 * t.sf(mean / np.sqrt(variance), number - 1))), 1.0)


@cache
def _variance_factors(degrees: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What an estimated variance is multiplied by to get what it may be, with weights that add up to 1.

    `degrees / chi2` at quantiles of the chi-squared distribution: nodes of Gauss and Legendre, closer to each other
    where the variance may be many times the estimate.
    """
    from scipy.stats import chi2

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places = (nodes + 1) / 2
    return degrees / chi2.ppf(places**4, degrees), weights / 2 * 4 * places**3


def _seed_has_no_effect(table: Correct) -> bool:
    """Whether several seeds gave the same answers to every image, as those of many solved heads do."""
    return len(table) > 1 and bool((table == table[0]).all())


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
    """The seed variance of all configurations on which seeds have an effect; None where all have a single seed."""
    some = [table for table in tables if not _seed_has_no_effect(table)]
    found = [variance for table in some if (variance := _seed_variance(table)) is not None]
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
