"""The product of families and strategies: every law of `zoo.testing`, on small inputs, weights none.

On every push pairs of it, chosen so that every feature of a family meets every feature of a strategy; all in `slow`.
"""

from __future__ import annotations

from collections import Counter

import pytest
from pairwise import Pair, meetings, pairwise

from zoo import UsageError
from zoo.plugin import Plugins
from zoo.testing import check_backbone, check_export, check_strategy

# name -> input size in pixels: the smallest of each family, on images as small as they take; the quickest first
FAMILIES = {
    "torchvision/squeezenet1_1": 32,
    "torchvision/mobilenet_v3_small": 32,
    "torchvision/shufflenet_v2_x0_5": 32,
    "timm/convnext_atto": 32,
    "timm/regnetx_002": 32,
    "timm/deit_tiny_distilled_patch16_224": 32,
    "timm/mobilevit_xxs": 32,
    "timm/vit_tiny_patch16_224": 32,
    "lite/efficientnet_lite0": 32,
    "torchvision/googlenet": 32,
    "torchvision/resnet18": 32,
    "torchvision/densenet121": 32,
}

# What a strategy may stumble over in a family
KINDS = {
    "torchvision/squeezenet1_1": ("concatenates", "no norms", "a convolution as the head"),
    "torchvision/mobilenet_v3_small": ("adds", "grouped", "batch norm", "a hidden layer before the head"),
    "torchvision/shufflenet_v2_x0_5": ("concatenates", "grouped", "batch norm"),
    "timm/convnext_atto": ("adds", "grouped", "layer norm"),
    "timm/regnetx_002": ("adds", "grouped", "batch norm"),
    "timm/deit_tiny_distilled_patch16_224": ("adds", "tokens", "layer norm", "two heads"),
    "timm/mobilevit_xxs": ("adds", "tokens", "grouped", "batch norm", "layer norm"),
    "timm/vit_tiny_patch16_224": ("adds", "tokens", "layer norm"),
    "lite/efficientnet_lite0": ("adds", "grouped", "batch norm"),
    "torchvision/googlenet": ("concatenates", "batch norm"),
    "torchvision/resnet18": ("adds", "batch norm"),
    "torchvision/densenet121": ("concatenates", "batch norm"),
}

# Strategies, and what each does that others do not
STRATEGIES = {
    "linear": ("solves the head",),
    "linear,solver=sgd": ("steps of the head alone",),
    "linear,head=mlp:8": ("steps of the head alone", "another head"),
    "knn:3": ("solves the head", "another head"),
    "kmeans": ("solves the head",),
    "svm": ("solves the head", "solved by a plugin"),
    "partial:1": ("last stages",),
    "partial:2,ema=0.5,mixup=0.2,cutmix=1.0": ("last stages", "averages weights", "mixes images"),
    "full,norm=recalibrate": ("all stages", "recalibrates"),
    "lpft,norm=train": ("solves the head", "all stages", "several phases", "statistics follow"),
    "gradual:2": ("all stages", "several phases"),
    "layerdecay:0.75": ("all stages", "a rate for each stage"),
    "l2sp:0.1": ("all stages", "pulled to the start"),
    "delta:0.5": ("solves the head", "all stages", "several phases", "features pulled to the start"),
    "surgical:1": ("first stages",),
    "surgical:1,norm=train": ("first stages", "statistics follow"),
    "truncate:1": ("solves the head", "cuts stages off"),
    "norm": ("norms alone",),
    "bitfit": ("biases alone",),
    "lora:2": ("adapters",),
    "dora:2": ("adapters",),
    "ia3": ("adapters",),
    "scratch": ("all stages", "statistics follow", "random start"),
}

# What a family has no place for, in the words that the user reads
REFUSED = {
    ("torchvision/squeezenet1_1", "linear,head=mlp:8"): "not one linear layer",
    ("torchvision/squeezenet1_1", "knn:3"): "not one linear layer",
    ("torchvision/squeezenet1_1", "svm"): "not one linear layer",
    ("timm/deit_tiny_distilled_patch16_224", "svm"): "not one linear layer",
    ("torchvision/squeezenet1_1", "kmeans"): "not one linear layer",
    ("timm/deit_tiny_distilled_patch16_224", "kmeans"): "not one linear layer",
    ("torchvision/squeezenet1_1", "norm"): "no normalisation parameters",
    ("timm/deit_tiny_distilled_patch16_224", "linear,head=mlp:8"): "not one linear layer",
    ("timm/deit_tiny_distilled_patch16_224", "knn:3"): "not one linear layer",
}

# What cannot be seen to train in a random network: factors and lengths do not decay, so only gradients move them.
# That of MobileViT's first blocks is zero, since they end in a batch norm that starts at zero; GoogLeNet's is 1e-13
STILL = {
    ("timm/mobilevit_xxs", "dora:2"),
    ("timm/mobilevit_xxs", "ia3"),
    ("torchvision/googlenet", "ia3"),
}

# A family stands in at least so many pairs, and a strategy
EACH_FAMILY, EACH_STRATEGY = 2, 2
CHOSEN = pairwise(KINDS, STRATEGIES, each_row=EACH_FAMILY, each_column=EACH_STRATEGY, never={*REFUSED, *STILL})
PUSHED = {*CHOSEN, *REFUSED}
PRODUCT = [
    pytest.param(*pair, id="-".join(pair), marks=() if pair in PUSHED else pytest.mark.slow)
    for pair in ((backbone, strategy) for backbone in FAMILIES for strategy in STRATEGIES)
    if pair not in STILL
]


@pytest.mark.parametrize("backbone", FAMILIES)
def test_backbones_keep_the_laws(backbone: str, plugins: Plugins) -> None:
    check_backbone(backbone, image_size=FAMILIES[backbone], plugins=plugins)


@pytest.mark.parametrize(("backbone", "strategy"), PRODUCT)
def test_strategies_keep_the_laws(backbone: str, strategy: str, plugins: Plugins) -> None:
    refused = REFUSED.get((backbone, strategy))
    if refused is None:
        check_strategy(strategy, backbone, image_size=FAMILIES[backbone], plugins=plugins)
    else:
        with pytest.raises(UsageError, match=refused):
            check_strategy(strategy, backbone, image_size=FAMILIES[backbone], plugins=plugins)


def test_every_feature_of_a_family_meets_every_feature_of_a_strategy() -> None:
    pairs = [(family, strategy) for family in FAMILIES for strategy in STRATEGIES]
    missing = {*pairs} - {*REFUSED} - STILL

    def met(some: set[Pair]) -> set[Pair]:
        return set().union(*(meetings(KINDS, STRATEGIES, pair) for pair in some))

    assert met({*CHOSEN}) == met(missing) and {*CHOSEN} <= missing
    families, strategies = (Counter(names) for names in zip(*CHOSEN))
    assert min(families[name] for name in FAMILIES) >= EACH_FAMILY
    assert min(strategies[name] for name in STRATEGIES) >= EACH_STRATEGY
    assert len(PUSHED) < len(pairs) / 2  # or it is no selection
    # a feature that only one of them has is not met by chance: leaving out its pairs is noticed
    assert met({pair for pair in CHOSEN if pair[0] != "torchvision/squeezenet1_1"}) != met(missing)


def test_every_strategy_is_held_to_the_laws(plugins: Plugins) -> None:
    covered = {text.split(":")[0].split(",")[0] for text in STRATEGIES}
    assert {entry.name for entry in plugins.strategies if entry.provider != "acme"} == covered


# What a strategy leaves behind differs in these only: the plain network, and three that are adapted for good
SHAPES = ("partial:1", "truncate:1", "linear,head=mlp:8", "knn:3")


# The graph before the head is another for each family, the head's graph is not
EXPORTED = {**FAMILIES, "timm/test_efficientnet": 32, "small/plain": 32}
EXPORTED_ON_EVERY_PUSH = {("timm/test_efficientnet", "partial:1"), *[("small/plain", shape) for shape in SHAPES[1:]]}
EXPORTS = [
    pytest.param(*pair, id="-".join(pair), marks=() if pair in EXPORTED_ON_EVERY_PUSH else pytest.mark.slow)
    for pair in ((backbone, strategy) for backbone in EXPORTED for strategy in SHAPES)
    if pair not in REFUSED  # this network has no such head
]


@pytest.mark.parametrize(("backbone", "strategy"), EXPORTS)
def test_trained_networks_export_and_verify(backbone: str, strategy: str, small_plugins: Plugins) -> None:
    size = EXPORTED[backbone]
    network = check_strategy(strategy, backbone, image_size=size, plugins=small_plugins)
    check_export(network, image_size=size, plugins=small_plugins)
