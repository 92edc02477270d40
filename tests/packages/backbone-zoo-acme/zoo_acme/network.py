"""Builds `acmenet`."""

from torch import nn

from zoo import Anatomy, BuildSpec, Network, Stage


def build(spec: BuildSpec) -> Network:
    model = nn.Sequential()
    width = 3
    for name, wider in (("low", 16), ("middle", 32), ("high", 64)):
        layers = (nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.ReLU())
        model.add_module(name, nn.Sequential(*layers))
        width = wider
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(spec.dropout or 0.0)))
    model.add_module("head", nn.Linear(width, spec.classes))
    names = [name for name, _ in model.named_parameters()]
    of = {
        stage: tuple(name for name in names if name.startswith(f"{stage}."))
        for stage in ("low", "middle", "high", "head")
    }
    stages = tuple(Stage(name=name, parameters=of[name]) for name in ("low", "middle", "high"))
    return Network(
        model, Anatomy(backbone=spec.backbone, stages=stages, head=Stage(name="head", parameters=of["head"]))
    )
