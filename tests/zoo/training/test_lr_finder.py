"""`--lr find`: the rate is read from the curve, is used, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import TINY

import zoo.training.lr_finder
from zoo import Plugins, UsageError, ZooError, train
from zoo.networks.freezing import digest_of_state
from zoo.progress import Silent
from zoo.storage.files import read_json
from zoo.training.lr_finder import find_rate
from zoo.training.preparation import Clock, prepare
from zoo.training.recipe import Recipe
from zoo.training.session import _recipe
from zoo.training.setup import resolve

BASE = replace(TINY, strategy="full")


def recipe(data: Path, plugins: Plugins, strategy: str = "full") -> Recipe:
    experiment = replace(BASE, data=str(data), strategy=strategy, lr=1.0)
    job = prepare(experiment, resolve(experiment, plugins), plugins, Silent(), Clock())
    return _recipe(job, Silent(), None, Clock())


def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss(
    two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = recipe(two_splits, plugins)
    rates = []

    def valley(indices, views, optimizer, *_: object) -> tuple[float, int]:  # type: ignore[no-untyped-def]
        rate = max(group["lr"] for group in optimizer.param_groups)
        rates.append(rate)
        return abs(float(np.log10(rate)) + 2) + 0.5, 0  # lowest at 0.01

    monkeypatch.setattr(it, "step_on", valley)
    monkeypatch.setattr(zoo.training.lr_finder, "SMOOTHING", 0.0)
    found = find_rate(it, Silent())
    assert found.lr == pytest.approx(1e-3, rel=0.15)
    assert rates == pytest.approx(list(found.rates)) and rates[0] == pytest.approx(1e-6)
    assert np.all(np.diff(np.log(rates)) == pytest.approx(np.log(1e6) / 59))


def test_it_stops_where_the_loss_diverges(two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    it = recipe(two_splits, plugins)
    losses = iter([1.0, 0.5, 0.4, 3.0, 9.0, 9.0, 0.0])
    monkeypatch.setattr(it, "step_on", lambda *_: (next(losses), 0))
    monkeypatch.setattr(zoo.training.lr_finder, "SMOOTHING", 0.0)
    assert find_rate(it, Silent()).losses == (1.0, 0.5, 0.4, 3.0)
    it = recipe(two_splits, plugins)
    monkeypatch.setattr(it, "step_on", lambda *_: (1.0, 0))
    with pytest.raises(ZooError, match="the loss fell at no rate"):
        find_rate(it, Silent())


@pytest.mark.parametrize("strategy", ["full,norm=train", "lpft", "l2sp:0.1"])
def test_the_network_is_left_as_it_was(
    two_splits: Path, plugins: Plugins, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo.training.lr_finder, "STEPS", 20)
    it = recipe(two_splits, plugins, strategy)
    before = digest_of_state(it.model)
    found = find_rate(it, Silent())
    assert digest_of_state(it.model) == before
    assert 1e-7 < found.lr < 1 and len(found.rates) > 10


def test_a_run_uses_and_records_the_rate(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = replace(BASE, data=str(two_splits), lr="find", epochs=1, schedule="constant", warmup=0.0)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    rate = run.record["lr"]
    assert run.experiment.lr == "find" and isinstance(rate, float)
    assert run.history[0]["lr"] == pytest.approx(rate)
    curve = read_json(run.path / "rates.json")
    assert curve["lr"] == rate and len(curve["rates"]) == len(curve["losses"])
    same = train(replace(asked, lr=rate), out=tmp_path / "same", plugins=plugins)
    assert same.record["weights_sha256"] == run.record["weights_sha256"]


def test_a_solver_has_no_rate_to_find(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="`--lr find` is for steps"):
        train(replace(BASE, data=str(two_splits), strategy="knn", lr="find"), out=tmp_path / "run", plugins=plugins)
    assert torch.is_grad_enabled()
