"""Stochastic normalisation: each channel of a batch norm is normalised by its batch, or by its running statistics.

Kou et al. 2020, "Stochastic normalization". Which of the two is drawn for each layer, channel and batch. The running
statistics are those before the batch, which updates them as always; in evaluation they are the only ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoo.networks.freezing import keeps_statistics

STATISTICS = ("running_mean", "running_var")


class StochasticNorms:
    """The batch norms of a network that are in train mode, with their running statistics as they are now.

    These serve all parts of a batch, in whatever order and by whatever rank they are computed.

    Args:
        model: The network, in the modes of the phase.
        chance: Of a channel to be normalised by its batch.
    """

    def __init__(self, model: nn.Module, chance: float) -> None:
        self._chance = chance
        self._running: dict[nn.Module, dict[str, torch.Tensor]] = {
            module: {name: value.clone() for name in STATISTICS if (value := module._buffers[name]) is not None}
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and keeps_statistics(module)
        }

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Inside the block, which of the two normalises a channel is drawn each time that a layer is called.

        Random numbers come from the CPU's global generator. A layer that computes an activation, too, as timm's do, is
        mixed behind it: it is the same, channel by channel.
        """
        by_running: dict[nn.Module, torch.Tensor] = {}

        def before(module: nn.Module, inputs: Any) -> None:
            own = {name: module._buffers[name] for name in STATISTICS}
            module._buffers.update(self._running[module])
            module.training = False
            try:
                by_running[module] = module.forward(*inputs)
            finally:
                module.training = True
                module._buffers.update(own)

        def after(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            shape = [1, output.shape[1], *[1] * (output.ndim - 2)]
            batch = (torch.rand(shape) < self._chance).to(output.device)
            return torch.where(batch, output, by_running.pop(module))

        handles = [module.register_forward_pre_hook(before) for module in self._running]
        handles += [module.register_forward_hook(after) for module in self._running]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
