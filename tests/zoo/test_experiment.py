"""Experiment: invalid settings are rejected, all at once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests_support import TINY

from zoo import Experiment, UsageError


def test_an_experiment_round_trips_through_json() -> None:
    asked = replace(TINY, lr="find", views=3, time_budget=1.5)
    assert Experiment.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    with pytest.raises(UsageError, match="unknown setting `epoch`"):
        Experiment.from_json({**TINY.to_json(), "epoch": 3})


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": None},
        {"lr": None},
        {"epochs": 1.5},
        {"seed": 0.5},
        {"strategy": None},
        {"backbone": ""},
        {"compile": "no"},
        {"data": 3},
    ],
)
def test_wrong_types_are_usage_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(TINY, **{"data": "x", **settings})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("epochs", np.int64(3), 3), ("lr", np.float32(0.5), 0.5), ("clip", np.float64(2), 2.0), ("lr", 1, 1)],
)
def test_numbers_of_numpy_are_numbers(name: str, value: Any, expected: float) -> None:
    found = replace(TINY, data="x", **{name: value})
    assert getattr(found, name) == expected and type(getattr(found, name)) is type(expected)
    assert Experiment.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, 10**400) for name in ("epochs", "batch_size", "seed", "lr")), ("time_budget", -(10**400))],
)
def test_integers_too_large_for_a_float_are_out_of_bounds(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="is outside"):
        replace(TINY, data="x", **{name: value})


def test_settings_outside_their_bounds_are_reported_together() -> None:
    with pytest.raises(UsageError) as error:
        replace(TINY, data="x", lr=float("nan"), warmup=2.0, schedule="sometimes")  # type: ignore[arg-type]
    for part in ("`--lr nan`", "`--warmup 2`", "`--schedule sometimes`"):
        assert part in error.value.message
