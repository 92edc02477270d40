"""Scores of classes, and the metrics made of them, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from zoo.evaluation.class_scores import class_scores
from zoo.predictions import Predictions
from zoo_metrics import classification

pairs = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@given(pairs)
def test_they_are_scikit_learn_s(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, rows = drawn
    labels, predicted = np.array(rows).T
    found = class_scores(labels, predicted, classes)
    theirs: Any = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), average=None, zero_division=0.0
    )
    for ours, their in zip((found.precision, found.recall, found.f1, found.images), theirs):
        np.testing.assert_allclose(ours, their, rtol=1e-12)


@given(pairs, st.integers(0, 99), st.sampled_from([1.0, 40.0, 4000.0]))
def test_metrics_are_scikit_learn_s(drawn: tuple[int, list[tuple[int, int]]], seed: int, size: float) -> None:
    classes, rows = drawn
    labels = np.array(rows)[:, 0]
    logits = (np.random.default_rng(seed).normal(size=(len(labels), classes)) * size).astype(np.float32)
    table = Predictions(
        split="val",
        classes=tuple(f"class {number}" for number in range(classes)),
        ids=tuple(str(number) for number in range(len(labels))),
        labels=labels,
        logits=logits,
    )
    present = np.unique(labels)  # a class without images in this split has no recall to average
    for average in ("macro", "weighted"):
        theirs: Any = metrics.precision_recall_fscore_support(
            labels, table.predicted, labels=present, average=average, zero_division=0.0
        )
        ours = [getattr(classification, f"{name}_{average}")(table) for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(ours, theirs[:3], rtol=1e-12)
    expected = metrics.log_loss(labels, table.probabilities, labels=range(classes))
    assert classification.loss(table) == pytest.approx(expected, rel=1e-6)
