"""Metrics against figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from zoo.evaluation.scoring import Evaluation, compute_metrics
from zoo.plugin import Plugins
from zoo.predictions import Predictions

# 6 images of 3 classes; predicted a a b b c a where a a a b c c is shown
CONFIDENT = math.log(8)  # the winner of three gets 0.8
PREDICTED = [0, 0, 1, 1, 2, 0]
TABLE = Predictions(
    split="val",
    classes=("a", "b", "c"),
    ids=tuple("uvwxyz"),
    labels=np.array([0, 0, 0, 1, 2, 2]),
    logits=np.array([[CONFIDENT if c == p else 0.0 for c in range(3)] for p in PREDICTED], np.float32),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 4 / 6),
        ("precision_macro", (2 / 3 + 1 / 2 + 1) / 3),
        ("recall_macro", (2 / 3 + 1 + 1 / 2) / 3),
        ("f1_macro", (2 / 3 + 2 / 3 + 2 / 3) / 3),
        ("precision_weighted", (3 * 2 / 3 + 1 / 2 + 2 * 1) / 6),
        ("recall_weighted", 4 / 6),
        ("f1_weighted", 2 / 3),
        ("top5", 1.0),
        ("loss", -(4 * math.log(0.8) + 2 * math.log(0.1)) / 6),
        ("ece", abs(0.8 - 4 / 6)),
    ],
)
def test_by_hand(name: str, value: float) -> None:
    assert compute_metrics(TABLE, Plugins())[name] == pytest.approx(value, abs=1e-6)


def table(labels: list[int], logits: list[list[float]]) -> Predictions:
    names = tuple("abcdefg"[: len(logits[0])])
    ids = tuple(str(index) for index in range(len(labels)))
    return Predictions(split="v", classes=names, ids=ids, labels=np.array(labels), logits=np.array(logits, np.float32))


def test_macro_and_weighted_differ_where_classes_do() -> None:
    # three of a, all right; one of b, predicted as a: F1 of a is 6/7, of b 0
    found = compute_metrics(table([0, 0, 0, 1], [[1, 0]] * 4), Plugins())
    assert found["f1_macro"] == pytest.approx(3 / 7) and found["f1_weighted"] == pytest.approx(3 / 4 * 6 / 7)


def test_calibration_error_weighs_bins_by_their_images() -> None:
    # two at confidence 0.9, one of them right; one at 0.6, right: (2 * |0.5 - 0.9| + 1 * |1 - 0.6|) / 3
    logits = [[math.log(9), 0], [math.log(9), 0], [math.log(1.5), 0]]
    assert compute_metrics(table([0, 1, 0], logits), Plugins())["ece"] == pytest.approx(0.4, abs=1e-6)
    # 0.9 right and 0.6 wrong: bins apart, |1 - 0.9| and |0 - 0.6|; in one bin the two would nearly cancel
    assert compute_metrics(table([0, 1], logits[1:]), Plugins())["ece"] == pytest.approx(0.35, abs=1e-6)


def test_tables() -> None:
    evaluation = Evaluation(model="m", data="d", device="cpu", predictions=TABLE, metrics={})
    assert evaluation.confusion().tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 1]]
    row = evaluation.per_class()[2]
    assert (row["class"], row["precision"], row["recall"], row["images"]) == ("c", 1.0, 0.5, 2)
    # Wilson's interval for 4 of 6, by hand: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)
    assert evaluation.interval() == pytest.approx((0.29999, 0.90323), abs=1e-4)


def test_top5_counts_the_fifth_and_not_the_sixth() -> None:
    logits = np.array([[7, 6, 5, 4, 3, 2, 1]], np.float32)
    value: Callable[[int], float | None] = lambda label: compute_metrics(
        Predictions(split="v", classes=tuple("abcdefg"), ids=("i",), labels=np.array([label]), logits=logits), Plugins()
    )["top5"]
    assert (value(4), value(5)) == (1.0, 0.0)
