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


@pytest.mark.parametrize(
    ("given", "expected"),
    [(64, 64), ("64", 64), ("64x64", 64), ((64, 64), 64), ("48x96", (48, 96)), ([48, 96], (48, 96))],
)
def test_an_image_size_is_a_number_or_height_and_width(given: Any, expected: Any) -> None:
    found = replace(TINY, data="x", image_size=given)
    assert found.image_size == expected
    assert Experiment.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": "48x"}, "height x width"),
        ({"image_size": (48, 96, 3)}, "whole number, or two"),
        ({"image_size": 4.5}, "whole number, or two"),
        ({"image_size": (4, 96)}, "4x96 is outside 8 to 4,096"),
        ({"image_size": 9000}, "9000 is outside 8 to 4,096"),
        ({"fit": "stretch"}, "known are crop squash pad"),
        ({"fill": (1, 2, 3)}, "no effect without it"),
        ({"fill": (1, 2, 3), "fit": "squash"}, "no effect without it"),
        ({"fill": (1, 2, 300), "fit": "pad"}, "0 to 255"),
        ({"fill": (1, 2), "fit": "pad"}, "three whole numbers"),
        ({"fill": (1, 2, 0.5), "fit": "pad"}, "three whole numbers"),
    ],
)
def test_how_an_image_becomes_the_input_is_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        replace(TINY, data="x", **settings)
    assert message in error.value.message


def test_settings_outside_their_bounds_are_reported_together() -> None:
    with pytest.raises(UsageError) as error:
        replace(TINY, data="x", lr=float("nan"), warmup=2.0, class_balance="sometimes")  # type: ignore[arg-type]
    for part in ("`--lr nan`", "`--warmup 2`", "`--class-balance sometimes`"):
        assert part in error.value.message
