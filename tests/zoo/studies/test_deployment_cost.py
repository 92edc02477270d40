"""Deployment cost, measured before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from zoo import Experiment, Plugins, UsageError
from zoo.studies.deployment_cost import FILE, export_untrained

BASE = Experiment(data="nowhere", backbone="small/plain", weights="none", image_size=32, device="cpu", strategy="full")
CLASSES = ("a", "b", "c")


def test_size_of_knn_includes_the_training_features(tmp_path: Path, small_plugins: Plugins) -> None:
    experiment = replace(BASE, strategy="knn:5")
    few, many = (export_untrained(experiment, CLASSES, images, tmp_path, small_plugins) for images in (30, 3000))
    assert few["shape"] != many["shape"]
    width = next(
        initializer.dims
        for initializer in onnx.load(tmp_path / many["shape"] / FILE).graph.initializer
        if 3000 in initializer.dims
    )
    assert many["size"] - few["size"] == pytest.approx(4 * 2970 * (min(width[0], width[1]) + len(CLASSES)), rel=0.02)


def test_configurations_of_one_network_share_its_cost(tmp_path: Path, small_plugins: Plugins) -> None:
    found = [
        export_untrained(replace(BASE, strategy=name), CLASSES, 30, tmp_path, small_plugins)
        for name in ("full", "linear", "lora:2")
    ]
    assert found[0] == found[1] == found[2] and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UsageError, match="asks for 40 stages"):
        export_untrained(replace(BASE, strategy="partial:40"), CLASSES, 30, tmp_path, small_plugins)
