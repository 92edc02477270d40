"""Whether `zoo label-next` saves labels: accuracy after n labels, against images chosen at random.

    python benchmarks/label_next.py FOLDER_OF_BOTH > benchmarks/results/label_next.md

Features are EfficientNet-Lite0's; the pool is `hymenoptera/train` and 70 % of `sign_digits`, the test set the rest. In
each round the head of the strategy `linear` is solved on the labelled images, and the next ones are chosen. Rows that
start at `random` begin with the same random images for a seed; those that start at `k-centre` without any label.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from zoo.config.context import Context
from zoo.data.opening import open_to_score
from zoo.embedding.extraction import Extractor
from zoo.embedding.selection import choose, margins_of
from zoo_strategies.logistic import solve

SEEDS = range(5)
ROUNDS = {"hymenoptera": (10, 10, 80), "sign_digits": (20, 40, 300)}  # labels at first, in each round, at the end
METHODS = ("random", "k-centre", "margin", "combined")


def scored(have, pool, labels, rest, test, truth):
    """Accuracy on the test set of a head solved on the images `have`, and the margins of the images `rest`."""
    known, place = np.unique(labels[have], return_inverse=True)
    if len(known) < 2:
        return float((truth == known[0]).mean()), None
    margins, predicted = margins_of(solve, pool[have], place, np.concatenate([test, pool[rest]]))
    return float((known[predicted[: len(test)]] == truth).mean()), margins[len(test) :]


def curve(name, method, seed, cold, pool, labels, test, truth) -> list[float]:
    first, step, last = ROUNDS[name]
    order = np.random.default_rng(seed).permutation(len(pool))
    if cold:  # nothing in it is drawn, so that each seed leaves out a tenth of the pool
        order = order[: int(0.9 * len(order))]
        have = order[choose(pool[order], pool[:0], first, margins=None, method="k-centre").indices].tolist()
    else:
        have = order[:first].tolist()
    found = []
    while True:
        taken = set(have)
        rest = np.array([index for index in order if index not in taken])
        accuracy, margins = scored(have, pool, labels, rest, test, truth)
        found.append(accuracy)
        if len(have) >= last:
            return found
        if method == "random":
            have += rest[:step].tolist()
        else:
            have += rest[choose(pool[rest], pool[have], step, margins=margins, method=method).indices].tolist()


def features_of(root: Path, name: str):
    context = Context.of()
    images = open_to_score(str(root / name), 0, context.plugins)
    pairs = [(role, sample) for role, part in images.splits.items() for sample in part]
    found = Extractor("efficientnet_lite0", device="cpu", context=context).all([one for _, one in pairs], name)
    classes = sorted({sample.label for _, sample in pairs})
    labels = np.array([classes.index(pairs[index][1].label) for index in found.indices])
    if images.drawn:
        fit = np.zeros(len(labels), bool)
        fit[np.random.default_rng(0).permutation(len(labels))[: int(0.7 * len(labels))]] = True
    else:
        fit = np.array([pairs[index][0] == "train" for index in found.indices])
    return found.features[fit], labels[fit], found.features[~fit], labels[~fit]


def main(root: Path, names: list[str]) -> None:
    for name in names or ROUNDS:
        pool, labels, test, truth = features_of(root, name)
        full, _ = scored(np.arange(len(pool)), pool, labels, np.arange(1), test, truth)
        print(f"\n## {name}\n\nPool {len(pool):,}, test {len(test):,}; all labels: {full:.3f}.\n")
        first, step, last = ROUNDS[name]
        shown = range(first, last + 1, step)
        print("| start | method | " + " | ".join(map(str, shown)) + " | mean |")
        print("| --- | --- |" + " --- |" * (len(shown) + 1))
        for cold, method in [(False, one) for one in METHODS] + [(True, one) for one in METHODS if one != "random"]:
            rows = np.array([curve(name, method, seed, cold, pool, labels, test, truth) for seed in SEEDS])
            cells = [f"{each.mean():.3f} ± {each.std(ddof=1):.3f}" for each in rows.T]
            print(
                f"| {'k-centre' if cold else 'random'} | {method} | {' | '.join(cells)} | {rows.mean():.4f} |",
                flush=True,
            )


def first_batches(root: Path) -> None:
    """The accuracy after the first batch, which is chosen without any label."""
    print("\n## Without labels\n\n| images | labels | random | k-centre | k-means |\n| --- | --- | --- | --- | --- |")
    for name, counts in (("hymenoptera", (10, 20)), ("sign_digits", (20, 60))):
        pool, labels, test, truth = features_of(root, name)
        for count in counts:
            found: dict[str, list[float]] = {"random": [], "k-centre": [], "k-means": []}
            for seed in SEEDS:
                order = np.random.default_rng(seed).permutation(len(pool))
                some = order[: int(0.9 * len(order))]
                for start in found:
                    method = "k-centre" if start == "k-centre" else "combined"
                    have = (
                        order[:count]
                        if start == "random"
                        else some[choose(pool[some], pool[:0], count, margins=None, method=method).indices]
                    )
                    found[start].append(scored(have.tolist(), pool, labels, order[:1], test, truth)[0])
            cells = [f"{np.mean(one):.3f} ± {np.std(one, ddof=1):.3f}" for one in found.values()]
            print(f"| {name} | {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    first_batches(Path(sys.argv[1]))
