"""The product of families and strategies: every law of `zoo.testing`, on small inputs, weights none."""

from __future__ import annotations

import pytest

from zoo import UsageError
from zoo.plugin import Plugins
from zoo.testing import check_backbone, check_export, check_strategy

# name -> input size in pixels: the smallest of each family, on images as small as they take
FAMILIES = {
    "torchvision/resnet18": 32,
    "torchvision/squeezenet1_1": 32,
    "torchvision/densenet121": 32,
    "torchvision/googlenet": 32,
    "torchvision/shufflenet_v2_x0_5": 32,
    "torchvision/mobilenet_v3_small": 32,
    "lite/efficientnet_lite0": 32,
    "timm/regnetx_002": 32,
    "timm/convnext_atto": 32,
    "timm/vit_tiny_patch16_224": 32,
    "timm/deit_tiny_distilled_patch16_224": 32,
    "timm/mobilevit_xxs": 32,
}

STRATEGIES = (
    "linear",
    "linear,solver=sgd",
    "linear,head=mlp:8",
    "knn:3",
    "svm",
    "partial:1",
    "partial:2,ema=0.5,mixup=0.2,cutmix=1.0",
    "full,norm=recalibrate",
    "lpft,norm=train",
    "gradual:2",
    "layerdecay:0.75",
    "l2sp:0.1",
    "surgical:1",
    "surgical:1,norm=train",
    "truncate:1",
    "norm",
    "bitfit",
    "lora:2",
    "scratch",
)

# What a family has no place for, in the words that the user reads
REFUSED = {
    ("torchvision/squeezenet1_1", "linear,head=mlp:8"): "not one linear layer",
    ("torchvision/squeezenet1_1", "knn:3"): "not one linear layer",
    ("torchvision/squeezenet1_1", "svm"): "not one linear layer",
    ("timm/deit_tiny_distilled_patch16_224", "svm"): "not one linear layer",
    ("torchvision/squeezenet1_1", "norm"): "no normalisation parameters",
    ("timm/deit_tiny_distilled_patch16_224", "linear,head=mlp:8"): "not one linear layer",
    ("timm/deit_tiny_distilled_patch16_224", "knn:3"): "not one linear layer",
}


@pytest.mark.parametrize("backbone", FAMILIES)
def test_backbones_keep_the_laws(backbone: str, plugins: Plugins) -> None:
    check_backbone(backbone, image_size=FAMILIES[backbone], plugins=plugins)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("backbone", FAMILIES)
def test_strategies_keep_the_laws(backbone: str, strategy: str, plugins: Plugins) -> None:
    refused = REFUSED.get((backbone, strategy))
    if refused is None:
        check_strategy(strategy, backbone, image_size=FAMILIES[backbone], plugins=plugins)
    else:
        with pytest.raises(UsageError, match=refused):
            check_strategy(strategy, backbone, image_size=FAMILIES[backbone], plugins=plugins)


def test_every_strategy_is_held_to_the_laws(plugins: Plugins) -> None:
    covered = {text.split(":")[0].split(",")[0] for text in STRATEGIES}
    assert {entry.name for entry in plugins.strategies if entry.provider != "acme"} == covered


# What a strategy leaves behind differs in these only: the plain network, and three that are adapted for good
SHAPES = ("partial:1", "truncate:1", "linear,head=mlp:8", "knn:3")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHAPES)
@pytest.mark.parametrize("backbone", FAMILIES)
def test_what_is_left_exports_and_verifies(backbone: str, strategy: str, plugins: Plugins) -> None:
    if (backbone, strategy) in REFUSED:
        pytest.skip("this network has no such head")
    size = FAMILIES[backbone]
    network = check_strategy(strategy, backbone, image_size=size, plugins=plugins)
    check_export(network, image_size=size, plugins=plugins)


@pytest.mark.parametrize("strategy", SHAPES)
def test_one_of_each_shape_exports_and_verifies(strategy: str, plugins: Plugins) -> None:
    network = check_strategy(strategy, "timm/test_efficientnet", image_size=32, plugins=plugins)
    check_export(network, image_size=32, plugins=plugins)
