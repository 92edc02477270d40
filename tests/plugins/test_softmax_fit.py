"""Logistic regression fitted on several subsets at once, against scikit-learn's."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from zoo.predictions import softmax
from zoo.solver import Task
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo_strategies import logistic, softmax_fit
from zoo_strategies.softmax_fit import SoftmaxFits, Standardisation, blocks_of_rows


def clusters(images: int, width: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(images) % classes)
    centres = generator.normal(size=(classes, width))
    scale = generator.lognormal(0, 1.5, width)  # some features vary a hundred times as much as others
    found = (centres[labels] + noise * generator.normal(size=(images, width))) * scale + generator.normal(size=width)
    return found.astype(np.float32), labels


def solve(found: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], nn.Linear]:
    classes = int(labels.max()) + 1
    head = nn.Linear(found.shape[1], classes)
    return logistic.solve(Task(head=head, features=found, labels=labels, classes=classes, seed=0)), head


def theirs(found: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-8, max_iter=20_000).fit(found.astype(np.float64), labels)


@settings(max_examples=40)
@given(st.integers(2, 5), st.integers(3, 40), st.integers(20, 90), st.integers(-3, 0), st.integers(0, 9))
def test_each_fit_is_scikit_learn_s_on_its_subset(classes: int, width: int, images: int, power: int, seed: int) -> None:
    found, labels = clusters(images, width, classes, 3.0, seed)
    inputs = Standardisation.of(found).apply(found)
    subsets = np.random.default_rng(seed).random((3, images)) < 0.8
    subsets[:, [int(np.flatnonzero(labels == name)[0]) for name in range(classes)]] = True
    strength = 10.0**power
    with SoftmaxFits(inputs, labels, subsets, classes=classes) as fits:
        fits.fit((2 if classes == 2 else 1) / strength, 1e-7)
        for number, inside in enumerate(subsets):
            expected = theirs(inputs[inside], labels[inside], strength).predict_proba(inputs.astype(np.float64))
            assert np.abs(softmax(fits.logits(np.arange(images), number)) - expected).max() < 3e-3


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 1025, 3068])
def test_blocks_are_every_row_once_and_even_in_number(count: int) -> None:
    blocks = blocks_of_rows(count)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(count))
    assert max(block.stop - block.start for block in blocks) <= softmax_fit.BLOCK
    assert len(blocks) % 2 == 0 or count == 1


def _fitted(found: np.ndarray, labels: np.ndarray, threads: int = 1) -> np.ndarray:
    subsets = np.arange(len(labels)) % 3 != np.arange(3)[:, None]
    with SoftmaxFits(found, labels, subsets, classes=4, scale=Standardisation.of(found), threads=threads) as fits:
        for penalty in (100.0, 1.0):
            fits.fit(penalty, 1e-6)
        return fits.weights


def test_weights_are_the_same_with_any_number_of_threads_and_from_a_memory_map(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, labels = clusters(1500, 30, 4, 2.0)
    once = _fitted(found, labels)
    assert np.array_equal(once, _fitted(found, labels, threads=3))
    np.save(tmp_path / "features.npy", found)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(softmax_fit, "MOST_KEPT", 0)
    assert np.array_equal(once, _fitted(mapped, labels, threads=2))


def test_without_a_preconditioner_the_fit_is_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found, labels = clusters(600, 30, 4, 4.0)
    expected = _fitted(found, labels)
    monkeypatch.setattr(softmax_fit, "MOST_PRECONDITIONED", 10)
    assert np.abs(_fitted(found, labels) - expected).max() < 0.01 * np.abs(expected).max()
    monkeypatch.setattr(softmax_fit, "MOST_PRECONDITIONED", 100)
    monkeypatch.setattr(softmax_fit, "MOST_SAMPLED", 200)
    assert np.abs(_fitted(found, labels) - expected).max() < 0.01 * np.abs(expected).max()


def test_features_that_never_change_carry_no_weight() -> None:
    found, labels = clusters(200, 5, 2, 3.0)
    found[:, 2], found[:, 3] = 0.1, 0.0  # a float32 mean of 200 times 0.1 is not 0.1
    scale = Standardisation.of(found)
    assert scale.deviation[2] == scale.deviation[3] == 1
    np.testing.assert_allclose(scale.apply(found)[:, [0, 1, 4]].std(0), 1, rtol=1e-5)
    _, head = solve(found, labels)
    assert float(head.weight.detach()[:, 2:4].abs().max()) < 1e-4


@pytest.mark.parametrize(("images", "width"), [(20, 50), (50, 20), (30, 30)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learn_s_fit_with_fewer_or_more_images_than_features(
    images: int, width: int, classes: int
) -> None:
    found, labels = clusters(images, width, classes, 2.0)
    answer, head = solve(found, labels)
    scale = Standardisation.of(found)
    inputs = scale.apply(found)
    model = theirs(inputs, labels, answer["strength"])
    shares = head(torch.from_numpy(found)).softmax(1).detach().numpy()
    assert np.abs(shares - model.predict_proba(inputs.astype(np.float64))).max() < 3e-3
    weight = head.weight.detach().numpy() * scale.deviation
    expected = np.concatenate([-model.coef_, model.coef_]) / 2 if classes == 2 else model.coef_
    assert np.abs(weight - expected).max() < 0.02 * np.abs(expected).max()


SETS: dict[str, Callable[[], Any]] = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda: tuple(part[:600] for part in datasets.load_digits(return_X_y=True)),
    "few": lambda: clusters(30, 60, 3, 2.0),
    "wide": lambda: clusters(120, 300, 4, 3.0),
    "noisy": lambda: clusters(300, 20, 3, 8.0),
    "hopeless": lambda: clusters(200, 30, 2, 60.0),
    "easy": lambda: clusters(200, 40, 5, 0.3),
    "many": lambda: clusters(400, 30, 40, 1.5),
}


@pytest.mark.parametrize("name", SETS)
def test_the_chosen_strength_is_within_one_per_cent_of_the_lowest_loss(name: str) -> None:
    """The loss of every strength is scikit-learn's, at its minimum, on the same folds."""
    found, labels = SETS[name]()
    found = found.astype(np.float32)
    answer, _ = solve(found, labels)
    inputs = Standardisation.of(found).apply(found)
    folds, _ = held_out_folds(labels, 0)
    losses = {}
    for strength in logistic.STRENGTHS:
        shares = np.zeros((len(labels), int(labels.max()) + 1))
        for fit, held in folds:
            shares[held] = theirs(inputs[fit], labels[fit], strength).predict_proba(inputs[held])
        losses[strength] = log_loss(labels, shares)
    assert losses[answer["strength"]] <= 1.01 * min(losses.values())
    assert answer["cross_validated_loss"] == pytest.approx(losses[answer["strength"]], rel=0.01)


def test_the_search_ends_once_losses_rise_and_keeps_the_logits_of_the_best() -> None:
    found, labels = clusters(90, 20, 3, 4.0)
    task = Task(head=nn.Linear(20, 3), features=found, labels=labels, classes=3, seed=0)
    fits = logistic._Fits(task, Standardisation.of(found))
    folds, _ = held_out_folds(labels, 0)
    search = logistic._cross_validate(fits, folds)
    tried, some = sorted(search.losses), held_out(folds)
    assert search.strength == min(search.losses, key=search.losses.__getitem__)
    assert log_loss(labels[some], softmax(search.logits)) == pytest.approx(search.losses[search.strength])
    assert logistic.STRENGTHS[4] in tried and len(tried) < len(logistic.STRENGTHS)
    assert tried == [value for value in logistic.STRENGTHS if tried[0] <= value <= tried[-1]]
    for end in (tried[0], tried[-1]):  # the last that was tried on each side is worse than the best
        assert search.losses[end] > search.losses[search.strength] or end in (
            logistic.STRENGTHS[0],
            logistic.STRENGTHS[-1],
        )


def test_of_many_images_only_as_many_folds_are_fitted_as_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found, labels = clusters(100, 10, 2, 3.0)
    every, _ = solve(found, labels)
    assert every["folds"] == 5 and "held_out" not in every
    monkeypatch.setattr(logistic, "ENOUGH_HELD_OUT", 25)
    some, _ = solve(found, labels)
    assert some["folds"] == 2 and some["held_out"] == 40


def test_a_penalty_too_small_for_float32_ends_all_the_same() -> None:
    found, labels = clusters(80, 6, 2, 0.01)  # separable: without a penalty the weights grow without end
    with SoftmaxFits(found, labels, np.ones((1, 80), dtype=bool), classes=2, scale=Standardisation.of(found)) as fits:
        fits.fit(1e-20, 1e-9)
        assert np.isfinite(fits.weights).all() and math.isfinite(float(np.abs(fits.weights).max()))
        assert (fits.logits(np.arange(80), 0).argmax(1) == labels).all()


def test_features_that_hardly_change_neither_overflow_nor_carry_weight() -> None:
    found, labels = clusters(200, 5, 2, 3.0)
    found[:, 2] = np.where(labels == 0, np.float32(1e30), np.nextafter(np.float32(1e30), np.float32(2e30)))
    found[:, 3] = 1e-40 * labels  # a weight for it would be infinite in float32
    answer, head = solve(found, labels)
    assert math.isfinite(answer["cross_validated_loss"])
    assert bool(torch.isfinite(head.weight).all()) and bool(torch.isfinite(head.bias).all())
    assert float(head.weight.detach()[:, 2].abs().max()) < 1e-30


def test_gradients_of_blocks_are_added_up_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all blocks at once would take gigabytes where there are many classes and images."""
    monkeypatch.setattr(softmax_fit, "BLOCK", 16)
    found, labels = clusters(1600, 256, 100, 2.0)
    with SoftmaxFits(found, labels, np.ones((1, 1600), dtype=np.bool_), classes=100) as fits:
        tracemalloc.start()
        fits._objective(fits.weights, np.arange(1), 1.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 100 * fits.weights.nbytes / 2


def _limits() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize("where", ["_residuals", "fit"])
def test_an_interrupted_fit_ends_its_threads_and_restores_those_of_libraries(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, labels = clusters(1500, 10, 3, 2.0)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SoftmaxFits, where, interrupted)
    with threadpool_limits(2, user_api="blas"):
        before, threads = _limits(), threading.active_count()
        fits = SoftmaxFits(found, labels, np.ones((1, 1500), dtype=np.bool_), classes=3, threads=2)
        with pytest.raises(KeyboardInterrupt), fits:
            assert set(_limits()) == {1}
            fits.fit(1.0, 1e-6)
        assert _limits() == before and threading.active_count() == threads


def test_inputs_that_are_refused_leave_the_threads_of_libraries_alone() -> None:
    found, labels = clusters(100, 10, 3, 2.0)
    with threadpool_limits(2, user_api="blas"):
        before = _limits()
        with pytest.raises(ValueError, match=r"\w"):
            SoftmaxFits(found, labels, np.ones((1, 100), dtype=np.bool_), classes=2)
        assert _limits() == before


def test_the_library_of_scipy_is_limited_too_where_it_was_not_loaded() -> None:
    """It has threads of its own; with more than one, heads depended on their number."""
    script = (
        "import sys; from threadpoolctl import threadpool_info; from zoo_strategies.softmax_fit import one_thread\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "with one_thread():\n"
        "    import scipy.linalg.blas\n"
        "    print(*(one['num_threads'] for one in threadpool_info() if one['user_api'] == 'blas'))"
    )
    others = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=others)
    assert set(done.stdout.split()) == {"1"}


def test_a_step_that_raises_the_objective_is_shortened() -> None:
    found, labels = clusters(300, 10, 3, 3.0)
    inputs = Standardisation.of(found).apply(found)
    with SoftmaxFits(inputs, labels, np.ones((1, 300), dtype=np.bool_), classes=3) as fits:
        one = np.arange(1)
        values, slopes, _ = fits._objective(fits.weights, one, 1.0)
        step = -slopes
        while True:  # along the slope, to where the objective is a little higher again
            higher, _, _ = fits._objective(fits.weights + step, one, 1.0)
            if values[0] < higher[0] < 1.005 * values[0]:
                break
            step = step * np.float32(0.99)
        promised = np.array([np.vdot(step, slopes)], dtype=np.float64)
        weights, reached, _ = fits._search(one, step, promised, values, 1.0)
        assert reached[0] < values[0] and np.abs(weights - fits.weights).max() < np.abs(step).max()


def test_a_class_without_images_is_improbable_and_no_more() -> None:
    found, labels = clusters(90, 10, 3, 3.0)
    with SoftmaxFits(
        found, labels, np.ones((1, 90), dtype=np.bool_), classes=4, scale=Standardisation.of(found)
    ) as fits:
        fits.fit(10.0, 1e-6)
        shares = softmax(fits.logits(np.arange(90), 0))
    assert 1e-12 < shares[:, 3].max() < 0.01


def test_objective_and_gradient_are_those_of_the_formula_in_float64() -> None:
    found, labels = clusters(700, 10, 3, 3.0)
    inputs = Standardisation.of(found).apply(found)
    subsets = np.arange(700) % 2 != np.arange(2)[:, None]
    with SoftmaxFits(inputs, labels, subsets, classes=3) as fits:
        weights: Any = np.random.default_rng(0).standard_normal(fits.weights.shape, dtype=np.float32)
        values, slopes, _ = fits._objective(weights, np.arange(2), 500.0)
    for number, inside in enumerate(subsets):
        some = np.append(inputs, np.ones((700, 1)), axis=1)[inside]  # float64
        ours = np.asarray(weights[number], dtype=np.float64)
        shares, wanted, penalised = (
            softmax(some @ ours),
            np.eye(3)[labels[inside]],
            ours * np.array([[1.0]] * 10 + [[0.0]]),
        )
        expected = -np.log((shares * wanted).sum(1)).sum() + 250 * np.square(penalised).sum()
        assert values[number] == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(slopes[number], some.T @ (shares - wanted) + 500 * penalised, rtol=1e-4, atol=1e-2)
