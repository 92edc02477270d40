"""Feature distance: how far the maps of a network in training are from those of the network that the run began with.

The regularisation of DELTA: Li et al. 2019, "DELTA: deep learning transfer using feature map with attention for
convolutional networks", section 3, with the layers and the weights of channels of the authors' code
(github.com/lixingjian/DELTA). One thing differs: distances are relative to the size of a layer's maps. The authors sum
plain distances over channels, which suits the ResNets that they train. In EfficientNet-Lite0 the mean squares of maps
differ by a factor of a hundred, and their sum over channels is 20 to 3,000, so that no strength suits all layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import place_of
from zoo.networks.tracing import SMALL_BATCH, eval_mode, noise
from zoo.preprocess import ImageSize
from zoo.system.accelerator import to_double

# Divisor of the standardised scores of channels before their softmax, as in the authors' code
TEMPERATURE = 5.0
# Training images that channels are weighted by; the authors take 128
MOST_WEIGHED = 512
# Images of one pass, whose gradients of all maps are in memory together
WEIGHED_AT_ONCE = 16
# Least mean square of a layer's maps that distances are divided by; less is the rounding of zeros
LEAST_SQUARE = 1e-12
# Prefix of the weights' names in a checkpoint
ATTENTION = "attention/"


@dataclass(frozen=True)
class MapLayer:
    """A layer whose output is compared.

    Attributes:
        path: Of its module.
        channels: The dimension of its output that holds the channels: 1 of a convolution, -1 of a linear layer.
    """

    path: str
    channels: int


def map_layers(network: Network, size: ImageSize) -> tuple[MapLayer, ...]:
    """The last convolution or linear layer of each stage whose output has positions, from input to output.

    These are the layers that the authors chose in ResNets. A layer with more than one position comes before one with a
    single position, such as the gate of a squeeze-and-excitation block. A stage without such a layer has none.
    """
    stage_of = {name: stage.name for stage in network.anatomy.stages for name in stage.parameters}
    calls: list[tuple[str, str, MapLayer, bool]] = []

    def note(path: str, stage: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.ndim >= 3 and len(output) % SMALL_BATCH == 0:
            layer = MapLayer(path, 1 if isinstance(module, nn.Conv2d) else -1)
            calls.append((stage, path, layer, output.numel() > len(output) * output.shape[layer.channels]))

    handles = [
        module.register_forward_hook(partial(note, path, stage_of[f"{path}.weight"]))
        for path, module in network.model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{path}.weight" in stage_of
    ]
    place = next(network.model.parameters(), torch.zeros(0)).device
    try:
        with eval_mode(network.model), torch.no_grad():
            network.model(noise(SMALL_BATCH, size, place))
    finally:
        for handle in handles:
            handle.remove()
    paths = [path for _, path, _, _ in calls]
    chosen: dict[str, tuple[bool, MapLayer]] = {}
    for stage, path, layer, wide in calls:
        if paths.count(path) == 1 and (wide or not chosen.get(stage, (False, layer))[0]):
            chosen[stage] = (wide, layer)
    return tuple(layer for _, layer in chosen.values())


def teacher_of(model: nn.Module) -> nn.Module:
    """A frozen copy of a network, in eval mode."""
    return copy.deepcopy(model).requires_grad_(False).eval()


class FeatureDistance:
    """Compares the maps of a network with those of its teacher, for batches that both compute.

    Attributes:
        weights: For each layer, the weights of its channels `(C,)`: they add up to 1 over the mean square of its maps.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, layers: Sequence[MapLayer]) -> None:
        self.model = model
        self.teacher = teacher
        self.layers = tuple(layers)
        self.weights: tuple[torch.Tensor, ...] = ()

    def weigh(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Compute the weights of channels from batches of inputs `(N, 3, H, W)` and labels `(N,)`.

        A channel matters as much as the loss rises without it. The rise is estimated to first order, by the product of
        the channel and the gradient of the loss (Molchanov et al. 2017, "Pruning convolutional neural networks for
        resource efficient inference", equation 7, with its sign), from one pass for all channels; the authors of DELTA
        take one pass for each. As in their code, scores are standardised within a layer, divided by 5 and put through a
        softmax.
        """
        scores: list[torch.Tensor] | None = None
        sizes, count = torch.zeros(len(self.layers), dtype=torch.double), 0
        with eval_mode(self.model), torch.enable_grad():
            for inputs, labels in batches:
                with self._watching(self.model, weighed=True) as maps:
                    logits = self.model(inputs).float()
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                gradients = torch.autograd.grad(loss, maps, allow_unused=True)
                found = [
                    to_double(_by_channel(-(one.detach() * (0 if other is None else other)), layer)).sum((0, 2))
                    for one, other, layer in zip(maps, gradients, self.layers, strict=True)
                ]
                sizes += torch.stack([to_double(one.detach()).square().mean().cpu() for one in maps]) * len(labels)
                count += len(labels)
                scores = found if scores is None else [one + other for one, other in zip(scores, found)]
        assert scores is not None
        place = place_of(self.model)
        squares = (sizes / count).clamp_min(LEAST_SQUARE)
        self.weights = tuple((_softened(one) / float(size)).float().to(place) for one, size in zip(scores, squares))

    @contextmanager
    def watching(self) -> Iterator[_Watched]:
        """Inside the block, keep what the network and its teacher compute; each is run once."""
        with self._watching(self.model) as mine, self._watching(self.teacher) as theirs:
            yield _Watched(self, mine, theirs)

    @contextmanager
    def _watching(self, model: nn.Module, *, weighed: bool = False) -> Iterator[list[torch.Tensor]]:
        maps: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            if weighed and not output.requires_grad:
                output = output.detach().requires_grad_()
            maps.append(output)
            return output.clone()  # the next layer may compute in place

        handles = [model.get_submodule(layer.path).register_forward_hook(keep) for layer in self.layers]
        try:
            yield maps
        finally:
            for handle in handles:
                handle.remove()


class _Watched:
    def __init__(self, distance: FeatureDistance, mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
        self._distance, self._mine, self._theirs = distance, mine, theirs

    def penalty(self, images: int) -> torch.Tensor:
        """Half the weighted squared distance of the maps of a number of images, summed over layers and images.

        Of a layer with P positions it is `sum(weight * |difference|^2) / P` over channels: about 1 for maps of zeros.
        """
        total = torch.zeros((), device=self._mine[0].device)
        for mine, theirs, weights, layer in zip(
            self._mine, self._theirs, self._distance.weights, self._distance.layers, strict=True
        ):
            difference = _by_channel(mine.float() - theirs.float(), layer)
            squares = difference.square().mean(2) @ weights
            total = total + 0.5 * squares.sum() * (images / len(difference))
        return total


def _by_channel(value: torch.Tensor, layer: MapLayer) -> torch.Tensor:
    """A layer's output as `(N, C, positions)`; windows of one image may be several of its N."""
    moved = value.movedim(layer.channels, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], -1)


def _softened(scores: torch.Tensor) -> torch.Tensor:
    """Weights `(C,)` of channels by their scores, which add up to 1; equal ones where all scores are."""
    spread = scores.std(unbiased=False)
    standard = (scores - scores.mean()) / spread if bool(spread > 0) else torch.zeros_like(scores)
    return (standard / TEMPERATURE).softmax(0)
