"""Temperature scaling: logits are calibrated, equally in run, weights and file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from tests_support import TINY, make_photos

import zoo.training.figures
import zoo_strategies.logistic
import zoo_strategies.neighbours
from zoo import Plugins, Run, evaluate, train
from zoo.networks.building import build_network
from zoo.predictions import softmax
from zoo.solver import Task
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
    """The likelihood alone would go to the lower bound; and four images are too few to say anything."""
    temperatures = [
        fit_temperature(np.eye(3)[np.arange(count) % 3] * 2, np.arange(count) % 3) for count in (4, 60, 3000)
    ]
    assert temperatures[0] == 1.0
    assert 2 * LOWEST < temperatures[2] < temperatures[1] < 0.8


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return -float(np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda classes: st.lists(
            st.tuples(st.lists(st.floats(-20, 20), min_size=classes, max_size=classes), st.integers(0, classes - 1)),
            min_size=1,
            max_size=30,
        )
    )
)
def test_the_loss_of_the_fitted_images_never_rises(images: list[tuple[list[float], int]]) -> None:
    logits, labels = np.array([image[0] for image in images]), np.array([image[1] for image in images])
    temperature = fit_temperature(logits, labels)
    assert LOWEST <= temperature <= HIGHEST
    assert log_loss(logits / temperature, labels) <= log_loss(logits, labels)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_temperature_is_the_most_probable_one(scale: float) -> None:
    logits, labels = drawn(150, scale)
    grid = np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), 4001))
    prior = norm.logpdf(np.log(grid), loc=0, scale=np.log(2))
    posterior = [logprior - 150 * log_loss(logits / one, labels) for one, logprior in zip(grid, prior)]
    assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmax(posterior)], rel=2e-3)


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_probabilities_that_are_right_are_left_alone(count: int) -> None:
    changed = sum(fit_temperature(*drawn(count, 1.0, seed)) != 1.0 for seed in range(100))
    assert changed <= 5


@pytest.mark.parametrize("scale", [0.4, 2.5])
def test_probabilities_that_are_wrong_become_better_for_other_images(scale: float) -> None:
    for seed in range(10):
        temperature = fit_temperature(*drawn(200, scale, seed))
        logits, labels = drawn(2000, scale, 1000 + seed)
        assert log_loss(logits / temperature, labels) < log_loss(logits, labels)


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


@pytest.fixture(scope="module")
def few_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("few_photographs"), {"train": 8, "val": 2})


@pytest.mark.parametrize(
    ("data", "strategy", "on"),
    [
        ("to_choose_on", "partial:1", "choose"),
        ("three_splits", "partial:1", None),  # eight images to choose on
        ("two_splits", "linear", "folds of train"),
        ("to_choose_on", "linear", "choose"),
        ("few_photographs", "linear", None),  # sixteen are held out in folds
        ("two_splits", "partial:1,epochs=1+linear", None),  # its folds helped to train what lies below the head
        ("two_splits", "partial:1", None),
        ("three_splits", "knn", "folds of train"),
        ("to_choose_on", "knn", "choose"),
    ],
)
def test_a_run_says_where_its_temperature_comes_from(
    data: str,
    strategy: str,
    on: str | None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (
        zoo.training.figures,
        zoo_strategies.logistic,
        zoo_strategies.neighbours,
    ):  # on a few images it would mostly be 1
        monkeypatch.setattr(module, "fit_temperature", lambda *_: 2.0)
    photographs = str(request.getfixturevalue(data))
    # without the store, which may hold what the solver computes for the same images with its own temperature
    asked = replace(TINY, data=photographs, strategy=strategy, epochs=None, augment="none", cache="off")
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    scored = run.predictions().logits
    found = run.record["temperature"]
    assert found == {"fitted_on": on, "value": 1.0 if on is None else 2.0}
    # the weights that were saved have it, and what was scored was scored with it
    again = evaluate(run, split=run.record["reported_split"], plugins=plugins)
    np.testing.assert_allclose(again.predictions.logits, scored, rtol=1e-4, atol=1e-5)


def test_a_history_that_was_deleted_costs_the_temperature_alone(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is taken up after its last phase finds out what was solved from its history."""
    asked = replace(TINY, data=str(two_splits), strategy="linear", epochs=None, augment="none")
    monkeypatch.setattr(Run, "history", property(lambda run: []))
    assert train(asked, out=tmp_path / "run").record["temperature"] == {"value": 1.0, "fitted_on": None}


def test_the_temperature_of_neighbours_is_that_of_images_that_are_held_out() -> None:
    """Five votes of noisy neighbours are surer than they are right; logits of other images become better."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 4
    features = (np.eye(16)[labels] * 1.5 + generator.normal(size=(600, 16))).astype(np.float32)
    head = zoo_strategies.neighbours.NeighbourHead(16, 4, 5)
    task = Task(head=head, features=features[:400], labels=labels[:400], classes=4, seed=0)
    found = zoo_strategies.neighbours.solve(task)
    assert found["temperature"] > 1 and "held_out" not in found
    others = torch.from_numpy(features[400:])
    with torch.no_grad():
        before = head(others).numpy()
        head.divide_logits(found["temperature"])
        after = head(others).numpy()
    np.testing.assert_allclose(after, before / found["temperature"], rtol=1e-5)
    assert log_loss(after, labels[400:]) < log_loss(before, labels[400:])
    # weights of an earlier zoo have no divisor
    state = {name: value for name, value in head.state_dict().items() if name != "divisor"}
    older = zoo_strategies.neighbours.NeighbourHead(16, 4, 5)
    older.load_state_dict(state)
    with torch.no_grad():
        np.testing.assert_array_equal(older(others).numpy(), before)
    alone = Task(head=head, features=features[:4], labels=labels[:4], classes=4, seed=0)
    assert "temperature" not in zoo_strategies.neighbours.solve(alone)
