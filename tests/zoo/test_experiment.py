"""Experiment: invalid settings are rejected, all at once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

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


def test_settings_outside_their_bounds_are_reported_together() -> None:
    with pytest.raises(UsageError) as error:
        replace(TINY, data="x", lr=float("nan"), warmup=2.0, schedule="sometimes")  # type: ignore[arg-type]
    for part in ("`--lr nan`", "`--warmup 2`", "`--schedule sometimes`"):
        assert part in error.value.message
