"""How often the set of winners leaves out a way to train that is as good as the best, and finds one that is better.

    python benchmarks/simulated_studies.py

1,000 studies of five equally good ways on 400 photographs, for each number of seeds and each luck of a seed; and 1,000
in which one is five points better, at accuracy 0.90 on 2,000 photographs. Writes `results/simulated_studies.md`.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from zoo.comparison import compare
from zoo.machine import versions

OUT = Path(__file__).parent / "results" / "simulated_studies.md"
HARD, OWN, CHANCE = 1.0, 0.7, 0.5  # spread of what is hard for all, for one way, and for one run

EQUAL = [(0.9, seeds, wander) for seeds in (1, 2, 3, 5) for wander in ((0.0,) if seeds == 1 else (0.0, 0.01, 0.02))]
BETTER = [(0.95, seeds, wander) for seeds in (1, 2, 3, 5) for wander in ((0.0,) if seeds == 1 else (0.0, 0.01))]


def drawn(generator: np.random.Generator, accuracies: list[float], photographs: int, seeds: int, wander: float) -> Any:
    """Which photographs each way gets right, `(seeds, photographs)`; `wander` is the spread of a seed's own luck."""
    hard = generator.normal(0, HARD, photographs)
    total = np.sqrt(HARD**2 + OWN**2 + CHANCE**2)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for number, accuracy in enumerate(accuracies):
        own = generator.normal(0, OWN, photographs)
        luck = np.clip(accuracy + generator.normal(0, wander, (seeds, 1)), 0.01, 0.99)
        scores = hard + own + generator.normal(0, CHANCE, (seeds, photographs))
        found[f"way {number}"] = scores > norm.isf(luck) * total
    return found


def left_out(case: tuple[float, int, float, int, int]) -> int:
    """Studies of equally good ways in which any of them is left out of the set of winners."""
    accuracy, seeds, wander, studies, seed = case
    generator = np.random.default_rng([seed, seeds, round(wander * 1000)])
    return sum(len(compare(drawn(generator, [accuracy] * 5, 400, seeds, wander)).winners) < 5 for _ in range(studies))


def found(case: tuple[float, int, float, int, int]) -> int:
    """Studies in which the better one is the only winner."""
    accuracy, seeds, wander, studies, seed = case
    generator = np.random.default_rng([seed, seeds, round(wander * 1000), 1])
    accuracies = [0.9, accuracy, 0.9, 0.9, 0.9]
    return sum(compare(drawn(generator, accuracies, 2000, seeds, wander)).winners == ("way 1",) for _ in range(studies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = [
        "# Simulated studies",
        "",
        f"`python benchmarks/simulated_studies.py --studies {options.studies} --seed {options.seed}`; five ways to "
        f"train; numpy {versions()['numpy']}.",
        "`luck` is the standard deviation of a seed's own accuracy around its way's. The bound is the upper end of the "
        "95 % interval (Clopper and Pearson).",
    ]
    tail = (options.studies, options.seed)
    with ProcessPoolExecutor() as pool:
        text += ["", "## Equally good, 0.90 on 400 photographs: any of them left out (asked: at most 5 %)", ""]
        text += ["| seeds | luck | left out | share | bound |", "| --- | --- | --- | --- | --- |"]
        for (_, seeds, wander), count in zip(EQUAL, pool.map(left_out, [(*case, *tail) for case in EQUAL])):
            bound = binomtest(count, options.studies).proportion_ci().high
            text.append(
                f"| {seeds} | {wander} | {count} of {options.studies} | {count / options.studies:.3f} | {bound:.3f} |"
            )
        text += ["", "## One at 0.95, four at 0.90, on 2,000 photographs: found alone (asked: at least 90 %)", ""]
        text += ["| seeds | luck | found | share |", "| --- | --- | --- | --- |"]
        for (_, seeds, wander), count in zip(BETTER, pool.map(found, [(*case, *tail) for case in BETTER])):
            text.append(f"| {seeds} | {wander} | {count} of {options.studies} | {count / options.studies:.3f} |")
    OUT.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
