"""Time and result of the head that is solved, beside scikit-learn's logistic regression with the same search.

    python benchmarks/solve.py FEATURES.npz ...
    python benchmarks/solve.py --growth

FEATURES are files of `zoo embed`, of which the training images are taken, or all where no image has a split. The first
command also takes made features, 3,068 x 1,280 with ten classes. The second shows how seconds grow with images and
classes. Every measurement is a process of its own, in turns. The search by scikit-learn is what zoo did until 0.2: nine
strengths from the strongest penalty, each started from the one before, until two in a row have a higher loss, on one
thread, which was fastest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from zoo.storage.files import json_text
from zoo.system.environment import machine

GROWTH = ((3_068, 10), (10_000, 10), (30_000, 10), (60_000, 10), (100_000, 10), (20_000, 100), (20_000, 1_000))


def made(images: int, classes: int) -> tuple[Any, Any]:
    """Features `(images, 1280)`, float32, of overlapping clusters, correlated as those of networks are; and labels."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(images) % classes)
    mixing = generator.normal(size=(200, 1_280)).astype(np.float32) / 14
    centres = generator.normal(size=(classes, 200)).astype(np.float32)
    hidden = generator.normal(size=(images, 200)).astype(np.float32) * 4 + centres[labels]
    noise = generator.normal(size=(images, 1_280)).astype(np.float32)
    return np.maximum(hidden @ mixing + noise, 0), labels


def read(source: str) -> tuple[Any, Any]:
    if source.startswith("made:"):
        images, classes = source.removeprefix("made:").split("x")
        return made(int(images), int(classes))
    table = np.load(source, allow_pickle=True)
    splits = table["split"]
    chosen = splits == "train" if (splits != "").any() else np.ones(len(splits), dtype=bool)
    return table["features"][chosen], np.unique(table["label"][chosen], return_inverse=True)[1]


def by_scikit_learn(features: Any, labels: Any) -> dict[str, Any]:
    """The search that zoo did before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    from zoo.training.held_out_folds import held_out_folds
    from zoo_strategies.logistic import STRENGTHS

    warnings.simplefilter("ignore", ConvergenceWarning)
    spread = features.std(0)
    spread[spread == 0] = 1
    inputs = ((features - features.mean(0)) / spread).astype(np.float64)
    folds, _ = held_out_folds(labels, 0)
    losses: dict[float, float] = {}
    starts: list[Any] = [None] * len(folds)

    def fit(rows: Any, strength: float, start: Any) -> Any:
        model = LogisticRegression(C=strength, max_iter=200, warm_start=start is not None)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
        return model.fit(inputs[rows], labels[rows])

    with threadpool_limits(1, user_api="blas"):
        if len(inputs) < inputs.shape[1]:
            inputs = np.ascontiguousarray(np.linalg.qr(inputs.T)[1].T)
        for strength in STRENGTHS:
            shares = np.zeros((len(labels), labels.max() + 1))
            for number, (rows, held) in enumerate(folds):
                starts[number] = fit(rows, strength, starts[number])
                shares[held] = starts[number].predict_proba(inputs[held])
            losses[strength] = log_loss(labels, shares)
            if min(list(losses.values())[-2:]) > min(losses.values()):
                break
        strength = min(losses, key=losses.__getitem__)
        fit(np.arange(len(labels)), strength, None)
    return {"strength": strength, "cross_validated_loss": losses[strength]}


def measure(source: str, how: str) -> dict[str, Any]:
    """Seconds, seconds of processor, the strength and its loss, in this process."""
    import torch
    from torch import nn

    from zoo.solver import Task
    from zoo_strategies import logistic

    features, labels = read(source)
    classes = int(labels.max()) + 1
    if how == "scikit-learn":
        import sklearn.linear_model
        import sklearn.metrics  # noqa: F401 - not in the time
    head = nn.Linear(features.shape[1], classes)
    task = Task(head=head, features=features, labels=labels, classes=classes, seed=0)
    if how == "zoo":  # imports of scipy and torch are not in the time either
        few = np.arange(40) % 2
        logistic.solve(Task(head=nn.Linear(8, 2), features=features[:40, :8], labels=few, classes=2, seed=0))
    torch.set_num_threads(2)
    began, processor = time.perf_counter(), time.process_time()
    answer = by_scikit_learn(features, labels) if how == "scikit-learn" else logistic.solve(task)
    spent = {"seconds": time.perf_counter() - began, "processor": time.process_time() - processor}
    kept = {name: answer[name] for name in ("strength", "cross_validated_loss")}
    return {**spent, **kept, "images": len(labels), "classes": classes}


def in_a_process(source: str, how: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, source, "--one", how], check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="FEATURES.npz")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=["zoo", "scikit-learn"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json_text(measure(asked.sources[0], asked.one)))
        return
    if asked.growth:
        print(
            "| images | classes | seconds | of processor | µs of processor per image and class |\n"
            "|---:|---:|---:|---:|---:|"
        )
        for images, classes in GROWTH:
            one = in_a_process(f"made:{images}x{classes}", "zoo")
            each = one["processor"] / images / classes * 1e6
            print(
                f"| {images:,} | {classes:,} | {one['seconds']:.1f} | {one['processor']:.1f} | {each:.1f} |", flush=True
            )
        return
    print(machine())
    print(
        "| features | images | classes | how | seconds | of processor | strength | loss |\n"
        "|---|---:|---:|---|---:|---:|---:|---:|"
    )
    for source in [*asked.sources, "made:3068x10"]:
        found: dict[str, list[dict[str, Any]]] = {"zoo": [], "scikit-learn": []}
        for _ in range(asked.repeats):
            for how, every in found.items():
                every.append(in_a_process(source, how))
        for how, every in found.items():
            seconds, processor = (float(np.median([one[name] for one in every])) for name in ("seconds", "processor"))
            one = every[0]
            print(
                f"| {Path(source).stem} | {one['images']:,} | {one['classes']} | {how} | {seconds:.2f} | "
                f"{processor:.2f} | {one['strength']:.4g} | {one['cross_validated_loss']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
