"""The networks that people reach for, exported and verified without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.exporter import ExportSpec
from zoo.networks.building import build_network
from zoo.plugin import Plugins
from zoo_onnx.verify import verify
from zoo_onnx.write import write

BACKBONES = (
    "torchvision/vgg16",
    "torchvision/resnet18",
    "torchvision/inception_v3",
    "torchvision/googlenet",
    "torchvision/efficientnet_b0",
    "torchvision/vit_b_16",
    "torchvision/swin_t",
    "timm/inception_v3",
    "timm/convnext_tiny",
    "timm/vit_small_patch16_224",
    "timm/tf_efficientnet_lite0",
    "timm/densenet121",
    "timm/regnety_002",
    "timm/maxvit_tiny_tf_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_is_exported_and_verified(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = Plugins().backbones.find(name).value
    network = build_network(backbone, classes=3)
    weight = network.model.get_parameter(network.anatomy.head.parameters[0])
    with torch.no_grad():
        weight.normal_(0, 0.05)  # torchvision's ViT starts with a head of zeros, whose logits would all agree
    file = tmp_path / "model.onnx"
    write(
        ExportSpec(
            model=network.model.eval(),
            preprocess=backbone.preprocess,
            classes=("a", "b", "c"),
            metadata={"backbone": name},
            file=file,
        )
    )
    checks = verify(file, "cpu")
    assert all(check.passed for check in checks), checks
