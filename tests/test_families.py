"""One epoch, export and verification for a network of every family, through the command line. Minutes, so `slow`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_cli.main import run

# name -> input size in pixels: small, but not below what the network can take
FAMILIES = {
    "torchvision/vgg16": 64,
    "torchvision/resnet18": 64,
    "torchvision/inception_v3": 128,
    "torchvision/googlenet": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/vit_b_16": 64,
    "torchvision/swin_t": 64,
    "timm/inception_v3": 128,
    "timm/convnext_tiny": 64,
    "timm/vit_small_patch16_224": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), FAMILIES.items(), ids=str)
def test_train_export_and_verify(
    backbone: str, size: int, two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = ["--weights", "none", "--epochs", "1", "--image-size", str(size), "--batch-size", "23"]  # 24 images
    assert run(["train", "--data", str(two_splits), "--backbone", backbone, "--strategy", "partial:2", *settings,
                "--out", str(out)]) == 0  # fmt: skip
    assert run(["export", str(out)]) == 0
    capsys.readouterr()
    assert run(["verify", str(out / "model.onnx"), "--data", str(two_splits), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["photographs"]["passed"] and "12 of 12" in checks["photographs"]["detail"]
