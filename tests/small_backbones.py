"""A plugin of small networks: the code of the large ones, for tests that are about something else than their size.

small/plain     three convolutions with batch norms: what an exporter writes in a second
small/densenet  torchvision's DenseNet: every layer's output is concatenated to what came before
small/swin      torchvision's Swin: shifted windows, patches merged between stages
small/vit       torchvision's ViT: a class token and a position for each patch of 8 pixels
"""

from __future__ import annotations

import importlib.metadata

from torch import nn
from torchvision.models import DenseNet, SwinTransformer, VisionTransformer

from zoo import Backbone, BuildSpec, Network, hookimpl
from zoo.hookspecs import Register
from zoo.networks.building import norm_parameters
from zoo.plugin import PluginCandidate, Plugins, installed_candidates
from zoo.stage import cut, group_parameters
from zoo_torchvision.build import set_dropout
from zoo_torchvision.stages import cut_network


def small_plugins() -> Plugins:
    """What is installed, and the networks of this file."""
    point = importlib.metadata.EntryPoint("small", __name__, "zoo.plugins")
    return Plugins([*installed_candidates(), PluginCandidate("small", "backbone-zoo-small", "1", point)])


def build_plain(spec: BuildSpec) -> Network:
    """Stages `low`, `middle`, `high`, each a strided convolution, and a linear head."""
    model = nn.Sequential()
    width = 3
    for name, wider in (("low", 8), ("middle", 16), ("high", 32)):
        layers = (nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.ReLU())
        model.add_module(name, nn.Sequential(*layers))
        width = wider
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(spec.dropout or 0.0)))
    model.add_module("head", nn.Linear(width, spec.classes))
    names = [name for name, _ in model.named_parameters()]
    groups, _ = group_parameters(names, (r"low", r"middle", r"high"))
    head = {name for name in names if name.startswith("head.")}
    return Network(model, cut(spec.backbone, names, groups=groups, head=head, norms=norm_parameters(model)))


def build_densenet(spec: BuildSpec) -> Network:
    """Two layers in each of four dense blocks, where DenseNet-121 has 6, 12, 24 and 16."""
    return _torchvision(
        spec, DenseNet(growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16, num_classes=spec.classes)
    )


def build_swin(spec: BuildSpec) -> Network:
    """The four stages of Swin-T, two of them with a shifted window, 16 channels wide where Swin-T has 96."""
    model = SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=[4, 4],
        stochastic_depth_prob=0.2, num_classes=spec.classes,
    )  # fmt: skip
    return _torchvision(spec, model)


def build_vit(spec: BuildSpec) -> Network:
    """Four blocks of 32 channels, where ViT-B has 12 of 768."""
    model = VisionTransformer(
        image_size=spec.image_size or 224, patch_size=8, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=spec.classes,
    )  # fmt: skip
    return _torchvision(spec, model)


def _torchvision(spec: BuildSpec, model: nn.Module) -> Network:
    if spec.dropout is not None:
        set_dropout(model, spec.dropout)
    return Network(model, cut_network(spec.backbone, model))


BUILDERS = {"plain": build_plain, "densenet": build_densenet, "swin": build_swin, "vit": build_vit}


@hookimpl
def register_backbones(register: Register[Backbone]) -> None:
    for name, build in BUILDERS.items():
        register(Backbone(name=name, summary=f"a small {name}", build=f"{__name__}:{build.__name__}"))
