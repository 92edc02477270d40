"""Estimates of transferability against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KNeighborsClassifier

from zoo.advice.transferability import h_score, knn_accuracy, logme


def drawn(count: int, width: int, classes: int, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = generator.normal(0, apart, (classes, width))
    return centres[labels] + generator.normal(0, 1, (count, width)) + 0.5, labels


def evidence(logs: np.ndarray, features: np.ndarray, target: np.ndarray) -> float:
    """Log of the Gaussian density of the targets under the covariance that the prior on weights gives them, an image.

    Bishop 2006, "Pattern recognition and machine learning", section 3.5: y ~ N(0, F F' / alpha + I / beta).
    """
    alpha, beta = np.exp(logs)
    count = len(target)
    covariance = features @ features.T / alpha + np.eye(count) / beta
    sign, log_determinant = np.linalg.slogdet(covariance)
    assert sign > 0
    fit = target @ np.linalg.solve(covariance, target)
    return float(-0.5 * (count * np.log(2 * np.pi) + log_determinant + fit) / count)


@pytest.mark.parametrize(("count", "width", "classes"), [(60, 5, 3), (40, 40, 2), (30, 80, 3)])
def test_logme_is_the_maximum_of_the_evidence(count: int, width: int, classes: int) -> None:
    features, labels = drawn(count, width, classes)
    best = []
    for label in range(classes):
        target = (labels == label).astype(float)
        found = [
            minimize(lambda logs: -evidence(logs, features, target), start, method="Nelder-Mead",  # noqa: B023
                     options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}).fun
            for start in ([0.0, 0.0], [2.0, 2.0])
        ]  # fmt: skip
        best.append(-min(found))
    assert logme(features, labels) == pytest.approx(np.mean(best), abs=1e-4)


def test_h_score_is_its_definition() -> None:
    """Bao et al. 2019, definition 2, computed from conditional means and covariances as numpy has them."""
    features, labels = drawn(300, 12, 4)
    means = np.array([features[labels == label].mean(axis=0) for label in range(4)])
    weights = np.bincount(labels) / len(labels)
    between = np.cov(means.T, aweights=weights, bias=True)
    plain = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ between)
    assert h_score(features, labels, shrink=False) == pytest.approx(plain, abs=1e-4)
    fitted = LedoitWolf().fit(features)
    shrunk = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ between)
    assert h_score(features, labels) == pytest.approx(shrunk, abs=1e-4)


def test_nearest_neighbours_are_scikit_learn_s() -> None:
    features, labels = drawn(80, 6, 2, apart=0.4)  # two classes and an odd number: nothing ties
    right = 0
    for place in range(len(labels)):
        rest = np.arange(len(labels)) != place
        model = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(features[rest], labels[rest])
        right += model.predict(features[place][None])[0] == labels[place]
    assert 0.5 < right / len(labels) < 1 and knn_accuracy(features, labels, 9) == right / len(labels)


@pytest.mark.parametrize("estimate", [logme, h_score, knn_accuracy])
def test_better_features_score_higher(estimate: object) -> None:
    scores = [estimate(*drawn(120, 30, 3, apart=apart)) for apart in (0.0, 0.3, 1.0)]  # type: ignore[operator]
    assert scores == sorted(scores)
