"""Areas under curves and log-loss by class, against scikit-learn, also with ties, and where they are undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from zoo.evaluation.ranking import average_precisions, class_log_losses, roc_areas


@st.composite
def tables(draw: Any) -> tuple[Any, Any]:
    """Labels of up to four classes, some perhaps without images, and probabilities of few values, so many are tied."""
    count, classes = draw(st.integers(2, 30)), draw(st.integers(2, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = generator.integers(1, draw(st.integers(2, 50)), (count, classes)).astype(np.float64)
    return generator.integers(0, draw(st.integers(1, classes)), count), raw / raw.sum(1, keepdims=True)


@given(tables())
def test_they_are_those_of_scikit_learn(table: tuple[Any, Any]) -> None:
    labels, shares = table
    areas, precisions, losses = (of(labels, shares) for of in (roc_areas, average_precisions, class_log_losses))
    for index in range(shares.shape[1]):
        of_class = labels == index
        if of_class.all() or not of_class.any():
            assert np.isnan(areas[index]) and np.isnan(precisions[index])
        else:
            assert areas[index] == pytest.approx(metrics.roc_auc_score(of_class, shares[:, index]))
            assert precisions[index] == pytest.approx(metrics.average_precision_score(of_class, shares[:, index]))
        if of_class.any():
            every = np.arange(shares.shape[1])
            assert losses[index] == pytest.approx(metrics.log_loss(labels[of_class], shares[of_class], labels=every))
        else:
            assert np.isnan(losses[index])


def test_perfect_scores_of_a_thousand_classes() -> None:
    labels = np.arange(1_000).repeat(2)
    shares = np.full((2_000, 1_000), 0.0)
    shares[np.arange(2_000), labels] = 1.0
    assert (roc_areas(labels, shares) == 1).all() and (average_precisions(labels, shares) == 1).all()
    assert (class_log_losses(labels, shares) < 1e-15).all()
