"""Simulates studies: how often the winners exclude an equally good configuration, and find a better one.

    python benchmarks/simulated_studies.py

For each number of seeds and each standard deviation between seeds, it simulates 1,000 studies of equally good
configurations on 400 images, and 1,000 studies on 2,000 images in which one of five configurations has an accuracy of
0.95 and the others 0.90. For studies that ended early, whose configurations have unequal numbers of seeds, and for
studies of one seed, it does the same on 2,000 images. Writes `results/simulated_studies.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from zoo.evaluation.significance import compare_configurations
from zoo.system.environment import versions

OUT = Path(__file__).parent / "results" / "simulated_studies.md"
# Standard deviations of an image's difficulty: common to all, for one configuration, and for one run
HARD, OWN, CHANCE = 1.0, 0.7, 0.5
ACCURACY, BETTER = 0.90, 0.95
UNEQUAL = (0.0, 0.0, 0.01, 0.01, 0.03)


@dataclass(frozen=True)
class Case:
    """Studies of one kind: number of seeds, and standard deviation of accuracy between seeds, by configuration."""

    seeds: int | tuple[int, ...]
    luck: tuple[float, ...]
    studies: int
    seed: int
    better: bool = False  # whether the second configuration is better
    images: int = 400

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of seeds by configuration."""
        return self.seeds if isinstance(self.seeds, tuple) else (self.seeds,) * len(self.luck)

    @property
    def seed_words(self) -> str:
        return " ".join(map(str, self.seeds)) if isinstance(self.seeds, tuple) else str(self.seeds)

    @property
    def words(self) -> str:
        return f"{self.luck[0]:g}" if len(set(self.luck)) == 1 else " ".join(f"{one:g}" for one in self.luck)

    def drawn(self, generator: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
        """Draw which images each configuration classifies correctly, `(seeds, images)`."""
        photographs = 2000 if self.better else self.images
        hard = generator.normal(0, HARD, photographs)
        total = np.sqrt(HARD**2 + OWN**2 + CHANCE**2)
        found: dict[str, npt.NDArray[np.bool_]] = {}
        for number, (wander, seeds) in enumerate(zip(self.luck, self.counts)):
            accuracy = BETTER if self.better and number == 1 else ACCURACY
            own = generator.normal(0, OWN, photographs)
            mean = np.clip(accuracy + generator.normal(0, wander, (seeds, 1)), 0.01, 0.99)
            scores = hard + own + generator.normal(0, CHANCE, (seeds, photographs))
            found[f"configuration {number}"] = scores > norm.isf(mean) * total
        return found


def count(case: Case) -> int:
    """Number of studies in which the better one is the only winner; or any of equally good ones is excluded."""
    seeds = case.seeds if isinstance(case.seeds, tuple) else (case.seeds,)
    key = [case.seed, *seeds, len(case.luck), *(round(1e4 * one) for one in case.luck)]
    generator = np.random.default_rng(key if case.images == 400 else [*key, case.images])
    winners = [compare_configurations(case.drawn(generator)).winners for _ in range(case.studies)]
    return sum(one == ("configuration 1",) if case.better else len(one) < len(case.luck) for one in winners)


def rows_of_excluded(cases: Iterable[Case], numbers: Iterable[int]) -> list[str]:
    """A table in Markdown: how many studies exclude an equally good configuration, and the bound of their share."""
    text = ["| configurations | images | seeds | sd | excluded | fraction | bound |", "| --- " * 7 + "|"]
    for case, number in zip(cases, numbers):
        bound = binomtest(number, case.studies).proportion_ci().high
        text.append(
            f"| {len(case.luck)} | {case.images} | {case.seed_words} | {case.words} | {number} of {case.studies} "
            f"| {number / case.studies:.3f} | {bound:.3f} |"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="number of studies of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    options = parser.parse_args()
    tail = (options.studies, options.seed)
    lucks = [(one,) * 5 for one in (0.0, 0.005, 0.01, 0.02)]
    equal = [Case(1, lucks[0], *tail)]
    equal += [Case(seeds, luck, *tail) for seeds in (2, 3, 5) for luck in (*lucks, UNEQUAL)]
    equal += [Case(seeds, (0.01,) * 18, *tail) for seeds in (2, 3)]
    unequal = [
        Case(seeds, (luck,) * len(seeds), *tail, images=images)
        for images in (400, 2000)
        for luck in (0.0, 0.01)
        for seeds in ((2, 2, 2, 1), (2, 1), (3, 1), (2, 1, 1, 1), (3, 2, 1, 1), (2, 2, 2, 2, 1))
    ]
    single = [Case(1, (luck,) * 5, *tail, images=images) for images in (400, 2000) for luck in (0.0, 0.005, 0.01)]
    better = [Case(1, lucks[0], *tail, better=True)]
    better += [Case(seeds, luck, *tail, better=True) for seeds in (2, 3, 5) for luck in lucks[:3]]
    better += [Case((2, *fewer), lucks[0], *tail, better=True) for fewer in ((1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 2, 1))]
    text = [
        "# Simulated studies",
        "",
        f"`python benchmarks/simulated_studies.py --studies {options.studies} --seed {options.seed}`; "
        f"numpy {versions()['numpy']}.",
        "`sd` is the standard deviation of accuracy between the seeds of a configuration; several values are those of "
        "the configurations. The bound is the upper end of the 95 % interval (Clopper and Pearson).",
    ]
    with ProcessPoolExecutor() as pool:
        text += ["", "## Equally good, 0.90 on 400 images: any of them excluded (target: at most 5 %)", ""]
        text += rows_of_excluded(equal, pool.map(count, equal))
        text += ["", "## Equally good, unequal numbers of seeds: any of them excluded (target: at most 5 %)", ""]
        text += ["A study that a time budget or a kill ends has such seeds.", ""]
        text += rows_of_excluded(unequal, pool.map(count, unequal))
        text += ["", "## Equally good, one seed each: any of them excluded (target with an `sd` of 0: at most 5 %)", ""]
        text += [
            "One seed says nothing about others. zoo says beside the winners that they hold for these seeds alone.",
            "",
        ]
        text += rows_of_excluded(single, pool.map(count, single))
        text += ["", "## One at 0.95, four at 0.90, on 2,000 images: the only winner (target: at least 90 %)", ""]
        text += ["| seeds | sd | only winner | fraction |", "| --- | --- | --- | --- |"]
        for case, number in zip(better, pool.map(count, better)):
            text.append(
                f"| {case.seed_words} | {case.words} | {number} of {case.studies} | {number / case.studies:.3f} |"
            )
    OUT.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
