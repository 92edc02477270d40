"""Temperature scaling: logits are calibrated, equally in run, weights and file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from tests_support import TINY, make_photos

from zoo import Plugins, Run, evaluate, train
from zoo.networks.building import build_network
from zoo.predictions import softmax
from zoo.training.temperature_scaling import HIGHEST, LOWEST, fit_temperature, fold_temperature


def drawn(count: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `scale` times as sure as they are right."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 3))
    labels = np.array([generator.choice(3, p=row) for row in softmax(logits)])
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_true_scale_is_found(scale: float) -> None:
    logits, labels = drawn(4000, scale)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.08)


def test_without_smoothing_the_optimum_equals_scipy_s() -> None:
    logits, labels = drawn(20_000, 2.0)

    def loss(temperature: float) -> float:
        return -float(np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean())

    other = minimize_scalar(loss, bounds=(LOWEST, HIGHEST), method="bounded").x
    assert fit_temperature(logits, labels) == pytest.approx(other, rel=0.01)  # smoothing weighs little on so many


def test_the_temperature_is_bounded_where_every_image_is_correct() -> None:
    few, many = (np.arange(count) % 3 for count in (30, 3000))
    temperatures = [fit_temperature(np.eye(3)[labels] * 8, labels) for labels in (few, many)]
    # unsmoothed, both would lie at the lower bound
    assert 2 * LOWEST < temperatures[1] < temperatures[0] < HIGHEST / 2


@pytest.mark.parametrize(("name", "folded"), [("timm/test_resnet", True), ("torchvision/squeezenet1_1", False)])
def test_logits_are_divided_or_left_alone(name: str, folded: bool, plugins: Plugins) -> None:
    network = build_network(plugins.backbones.find(name).value, classes=3)
    model, images = network.model.eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        assert fold_temperature(network, 2.5) is folded
        torch.testing.assert_close(model(images), before / (2.5 if folded else 1.0), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def to_choose_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("to_choose_on"), {"train": 8, "val": 10, "test": 2})


@pytest.mark.parametrize(
    ("data", "strategy", "on"),
    [
        ("to_choose_on", "partial:1", "choose"),
        ("three_splits", "partial:1", None),  # eight images to choose on
        ("two_splits", "linear", "folds of train"),
        ("to_choose_on", "linear", "choose"),
        ("two_splits", "partial:1,epochs=1+linear", None),  # its folds helped to train what lies below the head
        ("two_splits", "partial:1", None),
        ("three_splits", "knn", None),  # votes are no logits of a layer
    ],
)
def test_a_run_says_where_its_temperature_comes_from(
    data: str, strategy: str, on: str | None, request: pytest.FixtureRequest, tmp_path: Path, plugins: Plugins
) -> None:
    photographs = str(request.getfixturevalue(data))
    settings = replace(TINY, data=photographs, strategy=strategy, epochs=None, augment="none")
    run = train(settings, out=tmp_path / "run", plugins=plugins)
    scored = run.predictions().logits
    found = run.record["temperature"]
    assert found["fitted_on"] == on and (found["value"] == 1.0) is (on is None)
    # the weights that were saved have it, and what was scored was scored with it
    again = evaluate(run, split=run.record["reported_split"], plugins=plugins)
    np.testing.assert_allclose(again.predictions.logits, scored, rtol=1e-4, atol=1e-5)


def test_a_history_that_was_deleted_costs_the_temperature_alone(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is taken up after its last phase finds out what was solved from its history."""
    settings = replace(TINY, data=str(two_splits), strategy="linear", epochs=None, augment="none")
    monkeypatch.setattr(Run, "history", property(lambda run: []))
    assert train(settings, out=tmp_path / "run").record["temperature"] == {"value": 1.0, "fitted_on": None}
