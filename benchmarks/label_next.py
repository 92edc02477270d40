"""Whether `zoo label-next` saves labels: accuracy after n labels, against images chosen at random.

    python benchmarks/label_next.py SHARED_DATA > benchmarks/results/label_next.md

Features are EfficientNet-Lite0's; the pool is `hymenoptera/train` and 70 % of `sign_digits`, the test set the rest. In
each round the head of the strategy `linear` is solved on the labelled images, and the next ones are chosen. All methods
begin with the same images for a seed in "warm" rows: chosen at random. "cold" rows begin without any label, and the
first images are those of the k-centre algorithm, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zoo.config.context import Context
from zoo.data.opening import open_to_score
from zoo.embedding.extraction import Extractor
from zoo.embedding.selection import choose, margins_of
from zoo.solver import Task
from zoo_strategies.logistic import solve

SEEDS = range(5)
ROUNDS = {"hymenoptera": (10, 10, 100), "sign_digits": (20, 20, 400)}  # labels at first, in each round, at the end
SHOWN = {"hymenoptera": (10, 20, 30, 40, 60, 80, 100), "sign_digits": (20, 60, 100, 140, 200, 300, 400)}
METHODS = ("random", "k-centre", "margin", "combined")


def accuracy(train, labels, test, truth, classes: int) -> float:
    head = nn.Linear(train.shape[1], classes)
    if len(set(labels.tolist())) < 2:
        return float((truth == labels[0]).mean())
    known, place = np.unique(labels, return_inverse=True)
    head = nn.Linear(train.shape[1], len(known))
    solve(Task(head=head, features=train, labels=place, classes=len(known), seed=0))
    with torch.no_grad():
        return float((known[head(torch.from_numpy(test)).argmax(1).numpy()] == truth).mean())


def curve(name, method, seed, cold, pool, labels, test, truth) -> Iterator[tuple[int, float]]:
    first, step, last = ROUNDS[name]
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(pool))
    if cold and method != "random":
        some = order[: int(0.9 * len(order))]  # the algorithms have no chance in them: seeds leave out a tenth
        have = list(some[choose(pool[some], pool[:0], first, margins=None).indices])
        order = some
    else:
        have = list(order[:first])
    while True:
        yield len(have), accuracy(pool[have], labels[have], test, truth, int(labels.max()) + 1)
        if len(have) >= last:
            return
        taken = set(have)
        rest = np.array([index for index in order if index not in taken])
        if method == "random":
            have += rest[:step].tolist()
            continue
        known, place = np.unique(labels[have], return_inverse=True)
        margins = margins_of(solve, pool[have], place, pool[rest])[0] if len(known) > 1 else None
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


def main(root: Path) -> None:
    for name in ROUNDS:
        pool, labels, test, truth = features_of(root, name)
        full = accuracy(pool, labels, test, truth, int(labels.max()) + 1)
        print(f"\n## {name}\n\nPool {len(pool):,}, test {len(test):,}; all labels: {full:.3f}.\n")
        shown = SHOWN[name]
        print("| start | method | " + " | ".join(map(str, shown)) + " | mean |")
        print("| --- | --- |" + " --- |" * (len(shown) + 1))
        for cold in (False, True):
            for method in METHODS:
                rows = np.array(
                    [[a for _, a in curve(name, method, s, cold, pool, labels, test, truth)] for s in SEEDS]
                )
                first, step, _ = ROUNDS[name]
                at = [(count - first) // step for count in shown]
                cells = [f"{rows[:, i].mean():.3f} ± {rows[:, i].std(ddof=1):.3f}" for i in at]
                print(
                    f"| {'cold' if cold else 'warm'} | {method} | {' | '.join(cells)} | {rows.mean():.4f} |", flush=True
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
