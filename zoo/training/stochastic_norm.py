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


@contextmanager
def stochastic_norms(model: nn.Module, chance: float) -> Iterator[None]:
    """Inside the block, the batch norms in train mode normalise a channel by its batch with a chance.

    Random numbers come from the CPU's global generator. A layer that computes an activation, too, as timm's do, is
    mixed behind it: it is the same, channel by channel.
    """
    by_running: dict[nn.Module, torch.Tensor] = {}

    def before(module: nn.Module, inputs: Any) -> None:
        kept = {name: module._buffers[name] for name in STATISTICS}
        for name, value in kept.items():  # the batch updates them before gradients are computed
            assert value is not None
            module._buffers[name] = value.clone()
        module.training = False
        try:
            by_running[module] = module.forward(*inputs)
        finally:
            module.training = True
            module._buffers.update(kept)

    def after(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        shape = [1, output.shape[1], *[1] * (output.ndim - 2)]
        batch = (torch.rand(shape) < chance).to(output.device)
        return torch.where(batch, output, by_running.pop(module))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and keeps_statistics(module):
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
