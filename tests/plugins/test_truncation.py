"""Truncation: what is kept computes what it computed, and nothing else is left."""

from __future__ import annotations

import copy

import pytest
import torch
from messages import refused

from zoo import BuildSpec, Network, Plugins, UsageError
from zoo.networks.building import build_network
from zoo.networks.head import takes_vectors
from zoo.networks.tracing import find_prefix
from zoo.stage import check_anatomy
from zoo_strategies.cutting import truncate

# name -> input size, a module that ends the first half of the stages, stages to drop
CUTS = {
    "torchvision/resnet18": (64, "layer2", 2),
    "torchvision/densenet121": (64, "features.transition2", 2),
    "torchvision/mobilenet_v3_small": (64, "features.6", 3),
    "torchvision/swin_t": (64, "features.3", 2),
    "torchvision/vit_b_16": (32, "encoder.layers.encoder_layer_5", 6),
    "lite/efficientnet_lite0": (64, "blocks.3", 3),
    "timm/convnext_atto": (64, "stages.1", 2),
    "timm/vit_tiny_patch16_224": (32, "blocks.5", 6),
}


def build(name: str, size: int, plugins: Plugins) -> tuple[Network, BuildSpec]:
    torch.manual_seed(0)
    network = build_network(plugins.backbones.find(name).value, classes=3, image_size=size)
    return network, BuildSpec(backbone=name, classes=3, image_size=size)


@pytest.mark.parametrize(("name", "cut"), CUTS.items(), ids=CUTS)
def test_features_are_those_of_the_whole_network(name: str, cut: tuple[int, str, int], plugins: Plugins) -> None:
    size, last, drop = cut
    network, spec = build(name, size, plugins)
    network.model.eval()
    images = torch.randn(3, 3, size, size)
    seen: dict[str, torch.Tensor] = {}
    handle = network.model.get_submodule(last).register_forward_hook(lambda *a: seen.update(whole=a[2]))
    with torch.no_grad():
        network.model(images)
    handle.remove()
    anatomy, shapes = network.anatomy, {n: p.shape for n, p in network.model.named_parameters()}
    cutted = truncate(copy.deepcopy(network), spec, drop)
    cutted.model.eval()
    head = cutted.model.get_submodule("new_head")
    head.register_forward_pre_hook(lambda module, inputs: seen.update(ours=inputs[0]))
    with torch.no_grad():
        answer = cutted.model(images)
    assert answer.shape == (3, 3) and torch.equal(seen["ours"], seen["whole"])
    assert cutted.anatomy.names == anatomy.names[:-drop]
    check_anatomy(cutted.anatomy, [name for name, _ in cutted.model.named_parameters()])
    dropped = set(anatomy.parameters_of((*anatomy.names[-drop:], "head")))
    for parameter, value in cutted.model.named_parameters():
        assert parameter not in dropped
        assert parameter in cutted.anatomy.head.parameters or value.shape == shapes[parameter]
    assert takes_vectors(cutted, size)


def test_modes_reach_what_is_kept(plugins: Plugins) -> None:
    network, spec = build("lite/efficientnet_lite0", 32, plugins)
    model = truncate(network, spec, 2).model
    for training in (True, False):
        model.train(training)
        assert {module.training for module in model.modules()} == {training}


def test_dropout_goes_before_the_new_head(plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    spec = BuildSpec(backbone=spec.backbone, classes=3, image_size=32, dropout=0.4)
    rates = [m.p for m in truncate(network, spec, 1).model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.4]


@pytest.mark.parametrize("count", [5, 6, 100])
def test_dropping_everything_is_refused(count: int, plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    with refused(UsageError, f"`truncate:{count}`", f"{count} stages", "`resnet18`", "5") as error:
        truncate(network, BuildSpec(backbone="resnet18", classes=3, image_size=32), count)
    assert "`truncate:4`" in str(error.value.hint)
    assert spec.classes == 3


class TwoWays(torch.nn.Module):
    """Two tensors cross from `early` to `late`, or the way depends on the values."""

    def __init__(self, choose: bool) -> None:
        super().__init__()
        self.choose = choose
        self.early = torch.nn.Conv2d(3, 4, 1)
        self.other = torch.nn.Conv2d(3, 4, 1)
        self.late = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.early(x), self.other(x)
        if self.choose and one.sum() > 0:
            return self.late(one)  # type: ignore[no-any-return]
        return self.late(one) * two.mean()  # type: ignore[no-any-return]


def test_the_prefix_ends_in_every_tensor_that_crosses() -> None:
    prefix = find_prefix(TwoWays(choose=False), {"late.weight", "late.bias"}, torch.randn(3, 3, 4, 4))
    assert [node.name for node in prefix.ends] == ["early", "mean"]
    assert prefix.few[0].shape == (2, 4, 4, 4)


def test_a_way_that_depends_on_values_cannot_be_traced() -> None:
    model = TwoWays(choose=True).train()
    with refused(ValueError, "TraceError", "symbolically traced variables"):
        find_prefix(model, {"late.weight"}, torch.randn(3, 3, 4, 4))
    assert model.training and model.late.training
