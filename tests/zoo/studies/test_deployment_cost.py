"""Deployment cost, measured before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from zoo import Experiment, Plugins, UsageError
from zoo.progress import Silent
from zoo.studies import deployment_cost
from zoo.studies.deployment_cost import (
    FILE,
    MEASUREMENTS,
    DeploymentCost,
    export_untrained,
    time_networks,
    told_unfit,
    with_latency,
)
from zoo.studies.study import Study

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
    assert found[0] == found[1] == found[2] and len(list(tmp_path.glob("[!.]*"))) == 1
    with pytest.raises(UsageError, match="asks for 40 stages"):
        export_untrained(replace(BASE, strategy="partial:40"), CLASSES, 30, tmp_path, small_plugins)


class Said(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("loads", "kept", "lines"),
    [
        ([0.1], 0.1, []),
        ([1.2, 0.1], 0.1, ["measured again"]),
        ([1.2, 0.4, 0.9], 0.4, ["measured again", "measured again", "the one on the least busy machine is kept"]),
    ],
)
def test_latencies_of_a_busy_machine_are_measured_again(
    loads: list[float], kept: float, lines: list[str], tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement with the least other load counts; with it stands how busy the machine was."""
    monkeypatch.setattr(deployment_cost, "BUSY", 0.2)
    left = iter(loads)

    def bench(files: list[Path], **settings: Any) -> SimpleNamespace:
        others = next(left)
        p50 = SimpleNamespace(value=others, low=others, high=others)  # so that it can be told which one was kept
        found = SimpleNamespace(target=str(files[0]), measurements=[SimpleNamespace(p50=p50)])
        return SimpleNamespace(others=others, measured=[found])

    monkeypatch.setattr("zoo.latency.measurement.bench", bench)
    waited: list[float] = []
    monkeypatch.setattr(deployment_cost, "wait_until_quiet", waited.append)
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape" / FILE).touch()
    said = Said()
    measured = time_networks(tmp_path, "cpu", plugins, said)
    assert measured.p50 == {"shape": (kept, kept, kept)} and measured.others == kept
    assert len(said.warnings) == len(lines) and all(line in text for line, text in zip(lines, said.warnings))
    assert len(waited) == len(loads) - 1 < MEASUREMENTS
    assert next(left, None) is None
    cost = with_latency(DeploymentCost(shape="shape"), measured)
    assert DeploymentCost.from_json(cost.to_json()) == cost and cost.others == kept
    bound = Study(data="nowhere", backbones=("b",), strategies=("full",), max_latency=0.05)
    assert ("measured while other programs kept 0.4 cores busy" in cost.refused(bound)) == (kept == 0.4)


def test_a_network_that_was_not_timed_has_no_load(tmp_path: Path, plugins: Plugins) -> None:
    measured = time_networks(tmp_path, "cpu", plugins, Said())
    assert with_latency(DeploymentCost(shape="other"), measured).failure == "it could not be timed"
    assert DeploymentCost.from_json({"latency": None, "shape": "of an older version"}).others == 0.0


def test_a_sweep_that_does_not_fit_is_one_line() -> None:
    reasons = {f"x/net truncate:{n}": f"`truncate:{n}` drops {n} of 5 stages" for n in range(5, 31)}
    lines = told_unfit({**reasons, "x/net surgical:9": "no", "y/net truncate:7": "`truncate:7` drops 7"})
    assert lines == [
        "x/net truncate:5 and 25 others, to truncate:30, will not be trained: `truncate:5` drops 5 of 5 stages",
        "x/net surgical:9 will not be trained: no",
        "y/net truncate:7 will not be trained: `truncate:7` drops 7",
    ]
