"""Divides torchvision's networks into stages, at the same layers as timm if timm has the network too.

torchvision has no stages of its own. Each family has patterns for the parameter names of its stages (see
`zoo.stage.group_parameters`); parameters that match no pattern join the last stage.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from zoo.networks.building import norm_parameters
from zoo.stage import Anatomy, cut, group_parameters

Patterns = tuple[str, ...]


def cut_network(backbone: str, model: nn.Module) -> Anatomy:
    """The stages and the head of a torchvision network."""
    names = [name for name, _ in model.named_parameters()]
    path = head_path(model)
    family = FAMILIES.get(type(model).__name__)
    groups, _ = group_parameters(names, family(model) if family else children_in_order(model))
    return cut(
        backbone,
        names,
        groups=groups,
        head={f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()},
        norms=norm_parameters(model),
    )


def head_path(model: nn.Module) -> str:
    """The path of the classifier: the last linear layer or convolution (SqueezeNet) of the network."""
    paths: list[str] = [path for path, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    return paths[-1]


def children_in_order(model: nn.Module) -> Patterns:
    """The default: a stage for each child module, such as GoogLeNet's convolutions and inception blocks."""
    return tuple(rf"{name}\." for name, _ in model.named_children())


def _resnet(_: nn.Module) -> Patterns:
    return (r"conv1|bn1", r"layer(\d+)")


def _convolutions_in_order(_: nn.Module) -> Patterns:
    """VGG, AlexNet, SqueezeNet: a stage for each convolution or fire module, as in timm's VGG."""
    return (r"features\.(\d+)\.",)


def _densenet(_: nn.Module) -> Patterns:
    return (r"features\.(?:conv|norm)0", r"features\.(?:denseblock|transition)(\d+)")


def _inception(model: nn.Module) -> Patterns:
    mixed = tuple(rf"{name}\." for name, _ in model.named_children() if name.startswith("Mixed"))
    return (r"Conv2d_[12]", r"Conv2d_[34]", *mixed)


def _efficientnet(model: nn.Module) -> Patterns:
    """The stem, then each run of equal blocks; the last module of `features` is the final convolution."""
    features = model.get_submodule("features")
    last = len(list(features.children())) - 1
    return (r"features\.0\.", *(rf"features\.{stage}\." for stage in range(1, last)))


def _mobilenet_v2(_: nn.Module) -> Patterns:
    # Table 2 of the paper: runs of 1, 2, 3, 4, 3, 3, 1 bottlenecks
    return (r"features\.0\.", *_runs((1, 2, 3, 4, 3, 3, 1)))


def _mobilenet_v3(model: nn.Module) -> Patterns:
    # Tables 1 and 2 of the paper, by spatial size and kernel; the last run is the 1x1 convolution before the pooling
    large = len(list(model.get_submodule("features").children())) == 17
    return (r"features\.0\.", *_runs((1, 2, 3, 4, 2, 3, 1) if large else (1, 2, 3, 2, 3, 1)))


def _runs(lengths: tuple[int, ...]) -> Patterns:
    patterns, first = [], 1
    for length in lengths:
        patterns.append(rf"features\.(?:{'|'.join(str(first + offset) for offset in range(length))})\.")
        first += length
    return tuple(patterns)


def _mnasnet(_: nn.Module) -> Patterns:
    # 0 and 1: the stem; 3 to 7: the separable convolution, timm's blocks.0; 8 to 13: the runs of bottlenecks
    return (r"layers\.[01]\.", r"layers\.[3-7]\.", r"layers\.([89]|1[0-3])\.")


def _regnet(_: nn.Module) -> Patterns:
    return (r"stem", r"trunk_output\.block(\d+)")


def _four_stages(_: nn.Module) -> Patterns:
    """ConvNeXt and Swin: each stage with the downsampling before it, as in timm."""
    return (r"features\.0\.", r"features\.1\.", r"features\.[23]\.", r"features\.[45]\.", r"features\.[67]\.")


def _maxvit(_: nn.Module) -> Patterns:
    return (r"stem", r"blocks\.(\d+)")


def _vit(_: nn.Module) -> Patterns:
    return (r"class_token|conv_proj|encoder\.pos_embedding", r"encoder\.layers\.encoder_layer_(\d+)")


def _shufflenet(_: nn.Module) -> Patterns:
    return (r"conv1", r"stage(\d+)")


FAMILIES: dict[str, Callable[[nn.Module], Patterns]] = {
    "AlexNet": _convolutions_in_order,
    "ConvNeXt": _four_stages,
    "DenseNet": _densenet,
    "EfficientNet": _efficientnet,
    "GoogLeNet": children_in_order,
    "Inception3": _inception,
    "MNASNet": _mnasnet,
    "MaxVit": _maxvit,
    "MobileNetV2": _mobilenet_v2,
    "MobileNetV3": _mobilenet_v3,
    "RegNet": _regnet,
    "ResNet": _resnet,
    "ShuffleNetV2": _shufflenet,
    "SqueezeNet": _convolutions_in_order,
    "SwinTransformer": _four_stages,
    "VGG": _convolutions_in_order,
    "VisionTransformer": _vit,
}
