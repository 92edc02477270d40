"""Simulates studies: how often the winners exclude an equally good configuration, and find a better one.

    python benchmarks/simulated_studies.py

For each number of seeds and each standard deviation between seeds, it simulates 1,000 studies of equally good
configurations on 400 images, and 1,000 studies on 2,000 images in which one of five configurations has an accuracy of
0.95 and the others 0.90. Writes `results/simulated_studies.md`.
"""

from __future__ import annotations

import argparse
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

    seeds: int
    luck: tuple[float, ...]
    studies: int
    seed: int
    better: bool = False  # whether the second configuration is better

    @property
    def words(self) -> str:
        return f"{self.luck[0]:g}" if len(set(self.luck)) == 1 else " ".join(f"{one:g}" for one in self.luck)

    def drawn(self, generator: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
        """Draw which images each configuration classifies correctly, `(seeds, images)`."""
        photographs = 2000 if self.better else 400
        hard = generator.normal(0, HARD, photographs)
        total = np.sqrt(HARD**2 + OWN**2 + CHANCE**2)
        found: dict[str, npt.NDArray[np.bool_]] = {}
        for number, wander in enumerate(self.luck):
            accuracy = BETTER if self.better and number == 1 else ACCURACY
            own = generator.normal(0, OWN, photographs)
            mean = np.clip(accuracy + generator.normal(0, wander, (self.seeds, 1)), 0.01, 0.99)
            scores = hard + own + generator.normal(0, CHANCE, (self.seeds, photographs))
            found[f"configuration {number}"] = scores > norm.isf(mean) * total
        return found


def count(case: Case) -> int:
    """Number of studies in which the better one is the only winner; or any of equally good ones is excluded."""
    generator = np.random.default_rng([case.seed, case.seeds, len(case.luck), *(round(1e4 * one) for one in case.luck)])
    winners = [compare_configurations(case.drawn(generator)).winners for _ in range(case.studies)]
    return sum(one == ("configuration 1",) if case.better else len(one) < len(case.luck) for one in winners)


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
    better = [Case(1, lucks[0], *tail, better=True)]
    better += [Case(seeds, luck, *tail, better=True) for seeds in (2, 3, 5) for luck in lucks[:3]]
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
        text += [
            "| configurations | seeds | sd | excluded | fraction | bound |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for case, number in zip(equal, pool.map(count, equal)):
            bound = binomtest(number, case.studies).proportion_ci().high
            text.append(
                f"| {len(case.luck)} | {case.seeds} | {case.words} | {number} of {case.studies} "
                f"| {number / case.studies:.3f} | {bound:.3f} |"
            )
        text += ["", "## One at 0.95, four at 0.90, on 2,000 images: the only winner (target: at least 90 %)", ""]
        text += ["| seeds | sd | only winner | fraction |", "| --- | --- | --- | --- |"]
        for case, number in zip(better, pool.map(count, better)):
            text.append(f"| {case.seeds} | {case.words} | {number} of {case.studies} | {number / case.studies:.3f} |")
    OUT.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
