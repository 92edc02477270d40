"""Heads that are solved: logistic regression and nearest neighbours, against what they should compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import refused
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import nn

from zoo import Experiment, Network, Plugins, Run, UsageError, ZooError, evaluate, train
from zoo.errors import Diverged
from zoo.networks.building import build_network
from zoo.networks.head import head_path, replace_head, takes_vectors
from zoo.solver import Task
from zoo.training.features import cached_features, features
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo_classical import svm
from zoo_strategies import clustering, logistic, neighbours


def blobs(classes: int, count: int = 40, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(classes)
    labels = np.arange(count * classes) % classes
    centres = generator.normal(size=(classes, width)) * 3
    return (centres[labels] + generator.normal(size=(len(labels), width)) * 2 + 5).astype(np.float32), labels


def task(head: nn.Module, found: np.ndarray, labels: np.ndarray, seed: int = 0) -> Task:
    return Task(head=head, features=found, labels=labels, classes=int(labels.max()) + 1, seed=seed)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_head_answers_as_scikit_learn_s_model_does(classes: int) -> None:
    found, labels = blobs(classes)
    found[:, 0] = 7.0  # a feature that never changes
    head = nn.Linear(found.shape[1], classes)
    answer = logistic.solve(task(head, found, labels))
    spread = np.where(found.std(0) == 0, 1, found.std(0))
    inputs = (found - found.mean(0)) / spread
    model = LogisticRegression(C=answer["strength"], max_iter=1000).fit(inputs.astype(np.float64), labels)
    with torch.no_grad():
        ours = head(torch.from_numpy(found)).softmax(1).numpy()
    assert np.abs(ours - model.predict_proba(inputs)).max() < 2e-3
    assert answer["solver"] == "lbfgs" and answer["folds"] == 5


def test_the_strength_suits_the_data() -> None:
    found, labels = blobs(3)
    noise = np.random.default_rng(1).permutation(labels)  # nothing to learn: a strong penalty is right
    assert logistic.solve(task(nn.Linear(6, 3), found, noise))["strength"] <= 0.01
    easy = found * 1.0
    easy[np.arange(len(labels)), labels] += 40
    assert logistic.solve(task(nn.Linear(6, 3), easy, labels))["strength"] >= 0.1


def test_folds_hold_every_class_or_there_are_none() -> None:
    found, labels = blobs(2, count=3)
    assert logistic.solve(task(nn.Linear(6, 2), found, labels))["folds"] == 3
    alone = np.array([0, 0, 0, 1])
    answer = logistic.solve(task(nn.Linear(6, 2), found[:4], alone))
    assert answer["folds"] == 0 and answer["strength"] in logistic.STRENGTHS and "cross_validated_loss" not in answer
    assert "1 of 2 classes has one training image" in answer["note"]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(0, 99))
def test_folds_hold_out_every_image_that_is_not_alone_in_its_class(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds, note = held_out_folds(labels, seed)
    several = [count for count in counts if count > 1]
    assert (note is not None) is (1 in counts)
    assert len(folds) == (min(5, *several) if len(several) >= 2 else 0)
    for fit, held in folds:
        assert sorted([*fit, *held]) == list(range(len(labels)))
        assert set(labels[fit]) == set(labels)
    expected = np.flatnonzero(np.array(counts)[labels] > 1) if folds else np.zeros(0)
    assert np.array_equal(held_out(folds), expected)
    if folds and not note:  # as before there were classes of one image
        theirs = StratifiedKFold(len(folds), shuffle=True, random_state=seed).split(labels, labels)
        assert all(np.array_equal(a, b) for ours, their in zip(folds, theirs) for a, b in zip(ours, their))


@pytest.mark.parametrize("solve", [logistic.solve, svm.solve])
def test_one_image_in_the_rarest_class_changes_little(solve: Callable[[Task], dict[str, Any]]) -> None:
    """Nearly the same strength and answers as without it, where a strength fixed for all was chosen before."""
    found, labels = blobs(4, count=30)
    noisy = found + np.random.default_rng(0).normal(size=found.shape).astype(np.float32) * 6
    one = np.concatenate([noisy, found[:1] + 90]), np.concatenate([labels, [4]])
    without, beside = solve(task(nn.Linear(6, 4), noisy, labels)), solve(task(head := nn.Linear(6, 5), *one))
    assert beside["folds"] == without["folds"] == 5 and beside["held_out"] == 120
    assert "1 of 5 classes has one training image, which is never held out" in beside["note"]
    assert abs(np.log10(beside["strength"] / without["strength"])) <= 1
    assert head(torch.from_numpy(one[0][-1:])).argmax() == 4


@pytest.mark.parametrize("solve", [logistic.solve, svm.solve])
def test_classes_of_one_image_are_all_classified(solve: Callable[[Task], dict[str, Any]]) -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(1, 64)) * generator.uniform(0.2, 3, (120, 1))
    found = (common + generator.normal(size=(120, 64)) * 0.05).astype(np.float32)  # nearly parallel, some much longer
    head, labels = nn.Linear(64, 120), np.arange(120)
    answer = solve(task(head, found, labels))
    assert float((head(torch.from_numpy(found)).argmax(1).numpy() == labels).mean()) > 0.95
    assert answer["folds"] == 0 and "120 of 120 classes" in answer["note"] and "temperature" not in answer


def test_of_penalties_that_classify_as_many_the_strongest_is_taken() -> None:
    """Where nothing can be held out: here each of them classifies all images."""
    answer = logistic.solve(task(nn.Linear(5, 5), np.eye(5, dtype=np.float32), np.arange(5)))
    assert answer["folds"] == 0 and answer["strength"] == min(logistic.STRENGTHS)


def test_neighbours_vote_by_similarity() -> None:
    head = neighbours.NeighbourHead(2, 2, 3)
    assert not head(torch.ones(4, 2)).any() and head(torch.ones(4, 2)).shape == (4, 2)  # before it is solved
    remembered = np.array([[2, 0], [4, 0.1], [0, 1], [0, 3]], dtype=np.float32)
    answer = neighbours.solve(task(head, remembered, np.array([0, 0, 1, 1])))
    assert answer == {"remembered": 4, "neighbours": 3, "temperature": 1.0}
    query = torch.tensor([[1.0, 0.5]])
    similarity = nn.functional.cosine_similarity(query, torch.from_numpy(remembered))
    weights = (similarity[:3] / 0.07).softmax(0)  # the fourth is as far as the third, and only three vote
    expected = torch.stack([weights[0] + weights[1], weights[2]]).clamp_min(1e-4)
    assert torch.allclose(head(query).exp()[0], expected, atol=1e-5)


def test_knn_buffers_load_at_any_length() -> None:
    head, other = neighbours.NeighbourHead(4, 3, 2), neighbours.NeighbourHead(4, 3, 2)
    head.remember(torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    other.load_state_dict(head.state_dict())
    query = torch.randn(5, 4)
    assert torch.equal(head(query), other(query))


def small(plugins: Plugins, name: str = "timm/test_resnet") -> Network:
    torch.manual_seed(0)
    return build_network(plugins.backbones.find(name).value, classes=3, image_size=32)


def test_features_are_what_the_head_reads(plugins: Plugins) -> None:
    network = small(plugins)
    network.model.train()
    inputs = [torch.randn(4, 3, 32, 32), torch.randn(2, 3, 32, 32)]
    found = features(network, inputs)
    assert found.shape == (6, network.model.get_submodule(head_path(network)).in_features)
    layer = network.model.get_submodule(head_path(network))
    with torch.no_grad():
        assert torch.allclose(layer(torch.from_numpy(found[:4])), network.model(inputs[0]), atol=1e-5)


def test_a_head_of_two_layers_is_no_vector_head(plugins: Plugins) -> None:
    two = small(plugins, "timm/deit_tiny_distilled_patch16_224")
    assert not takes_vectors(two, 32) and takes_vectors(small(plugins), 32)
    with refused(UsageError, "head", "`deit_tiny_distilled_patch16_224`", "linear") as error:
        replace_head(two, nn.Linear(192, 3))
    assert "solver=sgd" in str(error.value.hint)


def experiment(data: Path, strategy: str, **settings: object) -> Experiment:
    base = {"backbone": "timm/test_resnet", "weights": "none", "image_size": 32, "device": "cpu", "batch_size": 8}
    return Experiment(data=str(data), strategy=strategy, **{**base, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "parts"), [("linear", ("`test_resnet`", "features", "1 of")), ("full,epochs=1+linear", ("diverged",))]
)
def test_features_that_are_not_finite_are_told_and_not_solved(
    strategy: str,
    parts: tuple[str, ...],
    two_splits: Path,
    tmp_path: Path,
    plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overflown(*arguments: Any) -> Any:
        found, spent = cached_features(*arguments)  # type: ignore[misc]
        found[1, 2] = np.inf
        return found, spent

    monkeypatch.setattr("zoo.training.solved_phase.cached_features", overflown)
    with refused(Diverged if "full" in strategy else ZooError, "not finite", "train/", *parts):
        train(experiment(two_splits, strategy), out=tmp_path / "run", plugins=plugins)


@pytest.mark.parametrize("strategy", ["linear", "knn:5", "truncate:2"])
def test_a_solved_run_is_scored_opened_and_evaluated(
    strategy: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    run = train(experiment(two_splits, strategy), out=tmp_path / "run", plugins=plugins)
    assert run.metrics["accuracy"] >= 0.9  # blue against red, on random features
    (line,) = run.history
    assert line["solved"] and line["epoch"] == 0 and set(line["seconds"]) == {"data", "prefix", "store", "solve"}
    again = evaluate(Run.open(run.path), plugins=plugins)
    assert np.array_equal(again.predictions.predicted, run.predictions().predicted)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 1), ("augment", "flip"), ("lr", 0.01), ("keep", "best"), ("dropout", 0.1), ("norm", "train")],
)
def test_a_setting_of_steps_replaces_the_solver(
    setting: str, value: object, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    settings = {"epochs": 1, setting: value}
    network = {"backbone": "timm/test_efficientnet"} if setting == "dropout" else {}
    run = train(experiment(two_splits, "linear", **settings, **network), out=tmp_path / "run", plugins=plugins)
    assert "solved" not in run.history[0] and run.record["steps"] > 0
    assert any("takes steps" in note for note in run.record["notes"])
    with refused(UsageError, f"`--{setting} {value}`", "`knn`", "steps"):
        train(experiment(two_splits, "knn", **{setting: value}), out=tmp_path / "knn", plugins=plugins)


def test_a_setting_goes_to_the_phase_that_steps(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = train(experiment(two_splits, "linear+full", epochs=1, augment="flip"), out=tmp_path / "run", plugins=plugins)
    assert [("solved" in line, line["phase"]) for line in run.history] == [(True, "linear"), (False, "full")]


def test_a_head_that_cannot_be_solved_is_trained_by_steps(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = experiment(two_splits, "linear", backbone="timm/deit_tiny_distilled_patch16_224", epochs=1)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    assert run.record["steps"] == 3 and "not one linear layer" in run.record["notes"][-1]


@pytest.mark.parametrize("classes", [2, 5])
def test_clusters_are_found_without_labels_and_named_by_them(classes: int) -> None:
    found, labels = blobs(classes)
    found[:, 0] = 7.0  # a feature that never changes
    head = nn.Linear(found.shape[1], classes)
    answer = clustering.solve(task(head, found, labels))
    with torch.no_grad():
        logits = head(torch.from_numpy(found))
    scaled = (found - found.mean(0)) / np.where(found.std(0) == 0, 1, found.std(0))
    model = KMeans(classes, n_init=10, random_state=0).fit(scaled)
    best = max(
        float((np.array(order)[model.labels_] == labels).mean()) for order in itertools.permutations(range(classes))
    )
    assert answer["matched"] == pytest.approx(best, abs=1e-6) and best > 0.6
    assert float((logits.argmax(1).numpy() == labels).mean()) == pytest.approx(best, abs=1e-6)
    assert float(nn.functional.cross_entropy(logits, torch.from_numpy(labels))) < np.log(classes)

    # other names of the classes change the names of the clusters alone
    order = np.random.default_rng(0).permutation(classes)
    other = nn.Linear(found.shape[1], classes)
    clustering.solve(task(other, found, order[labels]))
    with torch.no_grad():
        assert torch.allclose(other(torch.from_numpy(found))[:, order], logits, atol=1e-4)


def test_clusters_of_equal_images_and_of_too_few() -> None:
    equal = np.ones((6, 4), dtype=np.float32)
    head = nn.Linear(4, 3)
    answer = clustering.solve(task(head, equal, np.arange(6) % 3))
    assert "2 of 3 clusters are empty" in answer["note"] and head.weight.isfinite().all()
    few = Task(head=head, features=equal[:2], labels=np.array([0, 2]), classes=3, seed=0)
    with refused(ZooError, "`kmeans`", "3 classes", "2 training images"):
        clustering.solve(few)
    with refused(ZooError, "`kmeans`", "`head=`"):
        clustering.solve(task(nn.Sequential(nn.Linear(4, 3)), equal, np.arange(6) % 3))
