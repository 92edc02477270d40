"""Latency report: estimates from synthetic call times, without processes or runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo.errors import ZooError
from zoo.latency.report import LEAST_FLOOR, estimate, is_slower, noise_floor_between
from zoo.latency.worker import is_steady, make_batch
from zoo.runtime import Input


def test_ratio_is_paired_by_slot() -> None:
    """A drift of the machine that affects both widens their intervals but not that of the ratio."""
    drift = np.geomspace(1, 4, 10)[:, None] * np.ones((1, 5))
    figures = estimate(2 * drift, drift, 2 * drift.sum(axis=1), batch_size=4)
    assert (figures.ratio.value, figures.ratio.low, figures.ratio.high) == pytest.approx((2, 2, 2))
    assert figures.p50.high > 1.3 * figures.p50.low
    assert figures.images_per_second.value == pytest.approx(4 / (2 * drift.mean()))


def test_intervals_cover_the_true_median() -> None:
    """Of many experiments with turns that differ, about 95 in 100 intervals hold the true median."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        turns = np.exp(generator.normal(0, 0.1, (10, 1)) + generator.normal(0, 0.1, (10, 20)))
        found = estimate(turns, turns, turns.sum(axis=1), batch_size=1).p50
        hits += found.low <= 1 <= found.high
    assert 85 <= hits <= 99  # ten turns make a percentile interval a little too narrow


def test_is_steady_compares_two_windows() -> None:
    assert not is_steady([1.0] * 9)
    assert is_steady([9.0] + [1.0] * 10)
    assert is_steady([1.0] * 5 + [1.04] * 5) and not is_steady([1.0] * 5 + [1.06] * 5)


def test_batches() -> None:
    grey = make_batch(Input(dtype="uint8", shape=(5, 6, 3)), 2)
    assert grey.shape == (2, 5, 6, 3) and grey.dtype == np.uint8 and grey.std() > 50
    half = make_batch(Input(dtype="float16", shape=(3,)), 4)
    assert half.dtype == np.float16 and np.isfinite(half).all() and half.std() > 0
    assert make_batch(Input(dtype="int64", shape=(3,), fixed_batch=4), 4).shape == (4, 3)
    with pytest.raises(ZooError, match="batches of 4 only, not of 2"):
        make_batch(Input(dtype="float32", shape=(3,), fixed_batch=4), 2)


def test_throughput_counts_overlapping_calls_once() -> None:
    turns = np.full((5, 12), 0.3)  # three callers, four calls each
    found = estimate(turns, turns, np.full(5, 4 * 0.3), batch_size=8)
    assert found.images_per_second.value == pytest.approx(8 * 12 / 1.2) and found.p50.value == pytest.approx(0.3)


def turns_of(scale: float, seed: int, rounds: int = 10) -> np.ndarray[Any, Any]:
    """Calls of a subject that is `scale` times as slow, with noise per call and per slot."""
    generator = np.random.default_rng(seed)
    return scale * generator.lognormal(0, 0.05, (rounds, 20)) * generator.lognormal(0, 0.02, (rounds, 1))


def test_is_slower_tolerates_disturbed_slots() -> None:
    """One slot of each subject takes twice as long: 10 % is still found, and equal subjects are not slower."""

    def disturbed(scale: float, seed: int) -> np.ndarray[Any, Any]:
        turns = turns_of(scale, seed)
        turns[np.random.default_rng(seed).integers(len(turns))] *= 2
        return turns

    found = {
        scale: sum(is_slower(disturbed(scale, seed), disturbed(1, seed + 1000), LEAST_FLOOR) for seed in range(200))
        / 200
        for scale in (1.0, 1.1)
    }
    assert found[1.0] <= 0.01 and found[1.1] >= 0.9


def test_is_slower_error_rates() -> None:
    found = {
        scale: sum(is_slower(turns_of(scale, seed), turns_of(1, seed + 1000), LEAST_FLOOR) for seed in range(200)) / 200
        for scale in (1.0, 1.02, 1.1)
    }
    assert found[1.0] <= 0.01 and found[1.02] <= 0.05 and found[1.1] >= 0.95
    assert not is_slower(turns_of(1.1, 0), turns_of(1, 1), 0.2)  # a noisier machine
    assert not is_slower(turns_of(2.0, 0, rounds=1), turns_of(1, 1, rounds=1), LEAST_FLOOR)  # one round tells nothing
    assert noise_floor_between(turns_of(1.25, 3), turns_of(1, 3)) == pytest.approx(0.25)
    assert noise_floor_between(turns_of(1, 3), turns_of(1.25, 3)) == pytest.approx(0.25)
