"""Running statistics of batch norms that train, where several ranks compute the parts of a batch.

One process updates them part after part. Each rank sees the inputs of its own part alone, so the ranks take turns: a
rank gets the statistics that the parts before have left, makes its update with the inputs that it has kept, and hands
them on. The update is torch's own function, so its bits are those of one process.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from zoo.errors import ZooError
from zoo.networks.freezing import keeps_statistics
from zoo.system.ranks import Ranks


class RunningStatistics:
    """The statistics of the layers of a network that a step updates.

    Args:
        model: The network, in the modes of the phase.
        kept: Whether there are any: only batch norms that train are updated.
    """

    def __init__(self, model: nn.Module, kept: bool) -> None:
        modules = model.modules() if kept else ()
        self._layers = [module for module in modules if module.training and keeps_statistics(module)]
        self._inputs: list[tuple[nn.Module, torch.Tensor]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._before: list[torch.Tensor] = []
        for layer in self._layers:
            if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise ZooError(
                    f"the running statistics of `{type(layer).__name__}` cannot be trained by several ranks",
                    hint="pass `--norm frozen`, or train in one process",
                )

    def begin(self) -> None:
        """Keep the inputs of the layers from now on."""
        self._before = [buffer.clone() for buffer in self._buffers()]
        self._handles = [layer.register_forward_pre_hook(self._keep) for layer in self._layers]

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs.append((module, inputs[0].detach()))

    def end(self) -> None:
        """Forget the inputs, and undo what they have changed."""
        for handle in self._handles:
            handle.remove()
        for buffer, value in zip(self._buffers(), self._before):
            buffer.copy_(value)
        self._inputs, self._handles, self._before = [], [], []

    def exchange(self, ranks: Ranks, active: int) -> None:
        """Update the statistics by the parts of the first `active` ranks, in their order, on every rank."""
        inputs = self._inputs
        self.end()
        if not self._layers:
            return
        for rank in range(active):
            if rank == ranks.rank:
                for layer, values in inputs:
                    _update(layer, values)
            ranks.take_over(self._buffers(), source=rank)

    def _buffers(self) -> Iterable[torch.Tensor]:
        return [buffer for layer in self._layers for buffer in layer.buffers(recurse=False)]


@torch.no_grad()
def _update(layer: nn.Module, inputs: torch.Tensor) -> None:
    """Update the running statistics of a batch norm as its `forward` does."""
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert layer.running_mean is not None and layer.running_var is not None
    momentum = 0.0 if layer.momentum is None else layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            momentum = 1.0 / float(layer.num_batches_tracked)
    torch.batch_norm_update_stats(inputs, layer.running_mean, layer.running_var, momentum)
