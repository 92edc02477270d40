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
from zoo.config.context import Context
from zoo.errors import Diverged
from zoo.networks.freezing import digest_of_state
from zoo.progress import Silent
from zoo.storage.files import read_json
from zoo.training.lr_finder import find_rate
from zoo.training.preparation import Job, prepare
from zoo.training.setup import resolve
from zoo.training.workspace import PhaseSteps

BASE = replace(TINY, strategy="full")


def job(data: Path, plugins: Plugins, strategy: str = "full") -> Job:
    experiment = replace(BASE, data=str(data), strategy=strategy, lr="find")
    return prepare(experiment, resolve(experiment, plugins), Context.of(plugins))


def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss(
    two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []

    def valley(steps: PhaseSteps, *_: object, **__: object) -> tuple[float, int]:
        rate = max(group["lr"] for group in steps.optimizer.param_groups)
        rates.append(rate)
        return abs(float(np.log10(rate)) + 2) + 0.5, 0  # lowest at 0.01

    monkeypatch.setattr(PhaseSteps, "step", valley)
    monkeypatch.setattr(zoo.training.lr_finder, "SMOOTHING", 0.0)
    found = find_rate(job(two_splits, plugins), Silent())
    assert found.lr == pytest.approx(1e-3, rel=0.15)
    assert rates == pytest.approx(list(found.rates)) and rates[0] == pytest.approx(1e-6)
    assert np.all(np.diff(np.log(rates)) == pytest.approx(np.log(1e6) / 59))


def test_it_stops_where_the_loss_diverges(two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 0.5, 0.4, 3.0, 9.0, 9.0, 0.0])
    monkeypatch.setattr(PhaseSteps, "step", lambda *_, **__: (next(losses), 0))
    monkeypatch.setattr(zoo.training.lr_finder, "SMOOTHING", 0.0)
    assert find_rate(job(two_splits, plugins), Silent()).losses == (1.0, 0.5, 0.4, 3.0)
    below = iter([-1.0, -2.0, -3.0, 5.9, 6.1, 0.0])  # 3 times 3 above the lowest
    monkeypatch.setattr(PhaseSteps, "step", lambda *_, **__: (next(below), 0))
    assert find_rate(job(two_splits, plugins), Silent()).losses == (-1.0, -2.0, -3.0, 5.9, 6.1)
    monkeypatch.setattr(PhaseSteps, "step", lambda *_, **__: (1.0, 0))
    with pytest.raises(ZooError, match="`--lr find`: the loss fell at no"):
        find_rate(job(two_splits, plugins), Silent())


def test_losses_are_smoothed_without_a_bias_to_their_beginning(
    two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [3.0, 2.0, 1.0, 2.0]
    left = iter(losses)

    def step(*_: object, **__: object) -> tuple[float, int]:
        try:
            return next(left), 0
        except StopIteration:
            raise Diverged("the loss is inf") from None

    monkeypatch.setattr(PhaseSteps, "step", step)
    weights = 0.9 ** np.arange(4)
    expected = [np.average(losses[: count + 1], weights=weights[: count + 1][::-1]) for count in range(4)]
    assert find_rate(job(two_splits, plugins), Silent()).losses == pytest.approx(expected)


@pytest.mark.parametrize("strategy", ["full,norm=train", "lpft", "l2sp:0.1"])
def test_the_network_is_left_as_it_was(
    two_splits: Path, plugins: Plugins, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo.training.lr_finder, "STEPS", 20)
    it = job(two_splits, plugins, strategy)
    before = digest_of_state(it.network.model)
    found = find_rate(it, Silent())
    assert digest_of_state(it.network.model) == before
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
    with pytest.raises(UsageError, match="`--lr find` needs optimiser steps"):
        train(replace(BASE, data=str(two_splits), strategy="knn", lr="find"), out=tmp_path / "run", plugins=plugins)
    assert torch.is_grad_enabled()
