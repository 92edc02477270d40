"""The head: the last layer or layers, whose width is the number of classes. Initialise, find and replace it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.preprocess import ImageSize, height_width
from zoo.stage import HEAD, Stage

# Standard deviation of a new head's weights. Libraries initialise a classifier by rules made for a thousand classes.
# For two classes, timm's rule gives logits in the tens, and such a confident untrained head spoils the first steps of
# the layers below it. Kolesnikov et al. 2020 (BiT) start at zero; this is almost zero, but images still differ.
HEAD_STD = 0.01


def start_head(network: Network) -> None:
    """Initialise the head's linear and convolutional layers in place: weights near zero, biases zero."""
    head = set(network.anatomy.head.parameters)
    for prefix, module in network.model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and f"{prefix}.weight" in head:
            start_layer(module)


def start_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialise one layer in place: weights near zero, bias zero."""
    nn.init.normal_(layer.weight, std=HEAD_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def head_path(network: Network) -> str:
    """Path of the head where it is a single module: a linear layer, or the module that replaced one.

    Raises:
        UsageError: the head is several layers, or a convolution.
    """
    model = network.model
    parameters = network.anatomy.head.parameters
    paths = sorted({name.rpartition(".")[0] for name in parameters})
    if len(paths) == 1 and isinstance(model.get_submodule(paths[0]), nn.Linear):
        return paths[0]
    marked: list[str] = [path for path, module in model.named_modules() if getattr(module, "is_head", False)]
    if len(marked) == 1:
        return marked[0]
    raise UsageError(
        f"the head of `{network.anatomy.backbone}` is not one linear layer: {' '.join(parameters)}",
        hint="use `linear,solver=sgd`, which trains a head of any kind",
    )


def find_head(network: Network) -> nn.Module:
    """The module at `head_path`.

    Raises:
        UsageError: the head is several layers, or a convolution.
    """
    return network.model.get_submodule(head_path(network))


def place_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters or buffers; the CPU where it has neither, as the network of `hog_color`."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def takes_vectors(network: Network, size: ImageSize) -> bool:
    """Whether the head is one module that takes one vector per image; black images of `size` pixels are passed."""
    return vector_width(network, size) is not None


def vector_width(network: Network, size: ImageSize) -> int | None:
    """Width of the vectors that the head takes, one for each image of `size` pixels; None where it takes others."""
    try:
        head = find_head(network)
    except UsageError:
        return None
    shapes: list[tuple[int, ...]] = []
    handle = head.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    training = network.model.training
    network.model.eval()
    try:
        with torch.no_grad():
            network.model(torch.zeros(2, 3, *height_width(size), device=place_of(network.model)))
    finally:
        handle.remove()
        network.model.train(training)
    return shapes[0][1] if [len(shape) for shape in shapes] == [2] else None


def replace_head(network: Network, head: nn.Module) -> Network:
    """The network with its linear layer replaced by `head`, which maps features `(N, D)` to logits `(N, classes)`.

    The module is replaced in place; only the anatomy is new.

    Raises:
        UsageError: the head is not one linear layer.
    """
    path = head_path(network)
    head.is_head = True  # type: ignore[assignment]
    parent, _, name = path.rpartition(".")
    setattr(network.model.get_submodule(parent), name, head)
    parameters = tuple(f"{path}.{name}" for name, _ in head.named_parameters())
    return replace(network, anatomy=replace(network.anatomy, head=Stage(name=HEAD, parameters=parameters)))


def features_width(network: Network) -> int:
    """Width D of the features that enter the head.

    Raises:
        UsageError: the head is several layers, or a convolution.
    """
    head = find_head(network)
    first = next(module for module in head.modules() if isinstance(module, nn.Linear))
    return int(first.in_features)
