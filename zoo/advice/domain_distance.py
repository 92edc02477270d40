"""Domain distance: how far images are from a network's pretraining data, by the statistics of its batch norms.

A batch norm stores the mean and variance of each of its channels over the pretraining data. On new images the channels
have other means and variances. The difference measures the distance, and needs no image of the pretraining data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.system.accelerator import to_double

# Bounds of the distance: symmetric divergences in nats, the mean over channels and stages. Measured with
# EfficientNet-Lite 0, 1 and 2: ants and bees, which are in ImageNet too, are at 0.07 to 0.09; hands in front of a plain
# wall are at 0.68 to 0.72. The bounds rest on these two sets of data alone.
NEAR = 0.2
FAR = 0.5

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class NormRecorder:
    """Hooks that sum up the inputs of each batch norm and their squares, in double precision, inside a `with` block."""

    def __init__(self, network: Network) -> None:
        self.layers = {
            name: module
            for name, module in network.model.named_modules()
            if isinstance(module, NORMS) and module.running_mean is not None
        }
        self.sums: dict[str, list[torch.Tensor]] = {}
        self.counts: dict[str, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> NormRecorder:
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_pre_hook(self._hook(name)))
        return self

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            value = to_double(inputs[0].detach())
            axes = [axis for axis in range(value.ndim) if axis != 1]
            found = [value.sum(axes), (value**2).sum(axes)]
            before = self.sums.get(name)
            self.sums[name] = found if before is None else [one + other for one, other in zip(before, found)]
            self.counts[name] = self.counts.get(name, 0) + value.numel() // value.shape[1]

        return add

    def __exit__(self, *details: object) -> None:
        for handle in self._handles:
            handle.remove()

    def distances(self) -> dict[str, float]:
        """The divergence in nats of each batch norm that had inputs, by its name."""
        found = {}
        for name, (first, second) in self.sums.items():
            layer = self.layers[name]
            mean = first / self.counts[name]
            variance = (second / self.counts[name] - mean**2).clamp_min(0)
            assert layer.running_mean is not None and layer.running_var is not None
            found[name] = divergence(
                mean + 0.0,
                variance + layer.eps,
                to_double(layer.running_mean),
                to_double(layer.running_var) + layer.eps,
            )
        return found


def divergence(mean: torch.Tensor, variance: torch.Tensor, mean_: torch.Tensor, variance_: torch.Tensor) -> float:
    """Symmetric Kullback-Leibler divergence of two Gaussians (half of Jeffreys'), in nats, the mean over channels.

    Means and variances are `(channels,)`. Kullback and Leibler 1951, "On information and sufficiency", section 2.
    """
    squared = (mean - mean_) ** 2
    both = ((variance + squared) / variance_ + (variance_ + squared) / variance - 2) / 4
    return float(both.mean())


def by_stage(network: Network, distances: dict[str, float]) -> dict[str, float | None]:
    """The mean distance over the batch norms of each stage; None where a stage has none."""
    found: dict[str, float | None] = {}
    for stage in network.anatomy.stages:
        mine = {name.rpartition(".")[0] for name in stage.parameters}
        values = [value for name, value in distances.items() if name in mine]
        found[stage.name] = sum(values) / len(values) if values else None
    return found
