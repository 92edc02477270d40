"""The head: the layer, or layers, whose width is the number of classes; how it starts and how it is replaced."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.stage import HEAD, Stage

# Libraries start a classifier by rules made for a thousand classes; of two classes timm's gives logits of tens, and
# an untrained head that is sure of itself spoils the first steps of what lies below it. Kolesnikov et al. 2020 (BiT)
# start at zero; this is as good as zero and tells images apart.
HEAD_STD = 0.01


def start_head(network: Network) -> None:
    """Start the weights of the head's linear and convolutional layers near zero, their biases at zero, in place."""
    head = set(network.anatomy.head.parameters)
    for prefix, module in network.model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and f"{prefix}.weight" in head:
            start_layer(module)


def start_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Start one layer near zero, its bias at zero, in place."""
    nn.init.normal_(layer.weight, std=HEAD_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def head_path(network: Network) -> str:
    """Path of the one module that the head is: a linear layer, or what an adaptation put in its place.

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
        hint="use `linear,solver=sgd`, which trains whatever the head is",
    )


def find_head(network: Network) -> nn.Module:
    """The module at `head_path`; raises as it does."""
    return network.model.get_submodule(head_path(network))


def takes_vectors(network: Network, size: int) -> bool:
    """Whether the head is one module over one vector an image; asked by passing black images of `size` pixels."""
    try:
        head = find_head(network)
    except UsageError:
        return False
    shapes: list[int] = []
    handle = head.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].ndim))
    training = network.model.training
    network.model.eval()
    try:
        with torch.no_grad():
            network.model(next(network.model.parameters()).new_zeros(2, 3, size, size))
    finally:
        handle.remove()
        network.model.train(training)
    return shapes == [2]


def replace_head(network: Network, head: nn.Module) -> Network:
    """The network with `head`, features `(N, D)` to logits `(N, classes)`, in the place of its linear layer.

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
    """Width D of the features that enter the head; raises as `head_path`."""
    head = find_head(network)
    first = next(module for module in head.modules() if isinstance(module, nn.Linear))
    return int(first.in_features)
