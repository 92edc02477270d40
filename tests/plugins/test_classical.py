"""The classical baseline: histograms and a support vector machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from messages import refused
from sklearn.svm import LinearSVC
from tests_support import make_photos
from torch import nn

from zoo import Experiment, Plugins, ZooError, train
from zoo.embedding.labelling import label_next
from zoo.networks.building import build_network
from zoo.networks.head import takes_vectors
from zoo.solver import Task
from zoo_classical.features import build
from zoo_classical.svm import solve


def test_histograms_are_of_each_image_alone() -> None:
    network = build_network(Plugins().backbones.find("hog_color").value, classes=3)
    images = torch.rand(4, 3, 128, 128)
    found = network.model(images)
    assert found.shape == (4, 3) and torch.allclose(found[2:3], network.model(images[2:3]))
    features = network.model.histograms(images)  # type: ignore[operator]
    assert features.shape == (4, 7 * 7 * 4 * 9 + 4 * 3 * 16)
    colours = features[:, -4 * 3 * 16 :].reshape(4, 4, 3, 16) ** 2
    assert torch.allclose(colours.sum(-1), torch.full((4, 4, 3), 1 / 12))  # shares of each part and channel
    assert torch.allclose(features[:, : -4 * 3 * 16].norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_head_is_scikit_learn_s(classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % classes
    features = generator.normal(0, 2, (classes, 9))[labels] + generator.normal(size=(120, 9)) + 3
    head = nn.Linear(9, classes)
    found = solve(Task(head=head, features=features.astype(np.float32), labels=labels, classes=classes, seed=0))
    centred = features - features.mean(0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    model = LinearSVC(C=found["strength"], random_state=0, dual="auto").fit(scaled, labels)
    said = head(torch.from_numpy(features.astype(np.float32))).argmax(1).numpy()
    assert (said == model.predict(scaled)).mean() > 0.99
    assert 0 < found["temperature"] < 100 and found["cross_validated_accuracy"] > 0.5


def test_it_trains_and_predicts(two_splits: Path, tmp_path: Path) -> None:
    run = train(Experiment(data=str(two_splits), backbone="hog_color", strategy="svm"), out=tmp_path / "run")
    assert run.metrics["accuracy"] >= 0.9  # red and blue
    assert run.load_network().model(torch.rand(1, 3, 128, 128)).shape == (1, 2)
    assert not any("nothing to train" in note for note in run.record["notes"])


def test_a_strategy_that_finds_nothing_below_the_head_says_so(two_splits: Path, tmp_path: Path) -> None:
    asked = Experiment(data=str(two_splits), backbone="hog_color", strategy="full", epochs=1)
    notes = train(asked, out=tmp_path / "run").record["notes"]
    assert "`hog_color` has nothing to train but its head, so `full` trains only the head" in notes


def test_images_too_small_for_a_block() -> None:
    from zoo.backbone import BuildSpec

    with refused(ZooError, "`hog_color`", "32", "24"):
        build(BuildSpec(backbone="hog_color", classes=2, image_size=24))


def test_a_network_without_a_single_parameter_is_trained_scored_and_searched(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Its device, and the width of its features, are not asked of a parameter or a linear layer."""
    asked = Experiment(data=str(two_splits), backbone="hog_color", strategy="knn:3", unknown_rate=0.2)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    network = run.load_network(plugins)
    assert not list(network.model.parameters()) and takes_vectors(network, run.preprocess.crop)
    assert run.record["unknown"] is not None
    found = label_next(str(make_photos(tmp_path / "new", {"": 3})), run=tmp_path / "run", count=2, plugins=plugins)
    assert len(found) == 2
