"""Similarity: how far photographs lie from those that a network learnt from, by what its batch norms remember of them.

A batch norm carries the mean and variance that each of its channels had on the source data. The same channels have
others on new photographs; how far apart the two are is known without a single source image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.backbone import Network

# Symmetric divergences in nats, the mean over channels and stages. Measured with EfficientNet-Lite 0, 1 and 2: ants and
# bees, which ImageNet shows too, lie at 0.07 to 0.09; hands before a plain wall at 0.68 to 0.72. Two sets of data
# set two bounds, and no more than that is known of them
NEAR = 0.2
FAR = 0.5

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class NormWatch:
    """Hooks that sum up what enters each batch norm, in double precision."""

    def __init__(self, network: Network) -> None:
        self.layers = {
            name: module
            for name, module in network.model.named_modules()
            if isinstance(module, NORMS) and module.running_mean is not None
        }
        self.sums: dict[str, list[torch.Tensor]] = {}
        self.counts: dict[str, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> NormWatch:
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_pre_hook(self._keeper(name)))
        return self

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            value = inputs[0].detach().double()
            places = [axis for axis in range(value.ndim) if axis != 1]
            found = [value.sum(places), (value**2).sum(places)]
            before = self.sums.get(name)
            self.sums[name] = found if before is None else [one + other for one, other in zip(before, found)]
            self.counts[name] = self.counts.get(name, 0) + value.numel() // value.shape[1]

        return keep

    def __exit__(self, *details: object) -> None:
        for handle in self._handles:
            handle.remove()

    def distances(self) -> dict[str, float]:
        """The divergence of each batch norm that saw anything."""
        found = {}
        for name, (first, second) in self.sums.items():
            layer = self.layers[name]
            mean = first / self.counts[name]
            variance = (second / self.counts[name] - mean**2).clamp_min(0)
            assert layer.running_mean is not None and layer.running_var is not None
            found[name] = divergence(
                mean + 0.0, variance + layer.eps, layer.running_mean.double(), layer.running_var.double() + layer.eps
            )
        return found


def divergence(mean: torch.Tensor, variance: torch.Tensor, mean_: torch.Tensor, variance_: torch.Tensor) -> float:
    """The symmetric Kullback-Leibler divergence of two Gaussians, half of Jeffreys', the mean over channels, in nats.

    Kullback and Leibler 1951, "On information and sufficiency", section 2.
    """
    apart = (mean - mean_) ** 2
    both = ((variance + apart) / variance_ + (variance_ + apart) / variance - 2) / 4
    return float(both.mean())


def by_stage(network: Network, distances: dict[str, float]) -> dict[str, float | None]:
    """The mean distance of the batch norms of each stage; None where it has none."""
    found: dict[str, float | None] = {}
    for stage in network.anatomy.stages:
        mine = {name.rpartition(".")[0] for name in stage.parameters}
        values = [value for name, value in distances.items() if name in mine]
        found[stage.name] = sum(values) / len(values) if values else None
    return found
