"""Footprint: the memory and the time of one phase, measured by a step on a few images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.device import Device
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.freeze import apply_phase
from zoo.optimizer import ParameterGroup, make_optimizer
from zoo.step import is_out_of_memory
from zoo.strategy import Phase

# Images that are measured on. Eight tell a processor's speed to a tenth; a GPU needs a whole batch to be busy
FEW = {"cpu": 8, "cuda": 64}


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a phase takes: bytes, and images per second of its steps (of passes without gradients, where it has none).

    Memory is counted for fp32, and by what lives through a step: what a layer takes for itself while it computes, the
    libraries and the program come on top.
    """

    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass, of a batch or of the part of it that is computed at once
    images_per_second: float


def measure(
    network: Network,
    phase: Phase,
    groups: Sequence[ParameterGroup],
    experiment: Experiment,
    *,
    size: int,
    classes: int,
    device: Device,
) -> Footprint:
    """Take a phase's step twice on random images of `size` pixels: once to count, once to time.

    The rate is zero, so that weights stay; running statistics move where the phase lets them.

    Raises:
        ZooError: one step on two images does not fit into memory.
    """
    together = -(-experiment.batch_size // experiment.accumulate)
    count = max(2, min(together, FEW[device.place.type]))  # a batch norm over a 1 x 1 map cannot train on one image
    while True:
        try:
            found = _measure(network, phase, groups, experiment, count, size, classes, device)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if count == 2:
                raise ZooError(
                    f"two images at a time do not fit into the memory of `{device.place}`",
                    hint="pass a smaller `--image-size`, a smaller backbone, or a strategy that trains less",
                ) from error
        count //= 2
    gradients, optimizer, activations, rate = found
    return Footprint(
        gradients=gradients,
        optimizer=optimizer,
        activations=round(activations / count * together),
        images_per_second=rate,
    )


def _measure(
    network: Network,
    phase: Phase,
    groups: Sequence[ParameterGroup],
    experiment: Experiment,
    count: int,
    size: int,
    classes: int,
    device: Device,
) -> tuple[int, int, int, float]:
    model = network.model
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator).to(device.place)
    images = images.contiguous(memory_format=torch.channels_last)
    if phase.solver is not None:
        return 0, 0, 0, count / forward_seconds(model, images, device)
    trained = {name for group in groups for name in group.names}
    apply_phase(model, trained, phase.norm)
    labels = torch.arange(count, device=device.place) % classes
    optimizer = make_optimizer(model, groups, experiment)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    own = [*model.parameters(), *model.buffers()]
    counter = _Kept({tensor.untyped_storage().data_ptr() for tensor in own})
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda kept: kept):
        _backward(model, images, labels, None)
    optimizer.step()
    gradients = sum(_bytes(parameter.grad) for parameter in model.parameters() if parameter.grad is not None)
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = sum(_bytes(value) for value in states if isinstance(value, torch.Tensor) and value.ndim > 0)
    if device.autocast is not None:  # its kernels are others than those of the pass that was counted
        _backward(model, images, labels, device)
    _wait(device)
    started = perf_counter()
    optimizer.zero_grad(set_to_none=True)
    _backward(model, images, labels, device)
    optimizer.step()
    _wait(device)
    seconds = perf_counter() - started
    optimizer.zero_grad(set_to_none=True)
    return gradients, held, counter.total, count / seconds


@torch.no_grad()
def forward_seconds(model: nn.Module, images: torch.Tensor, device: Device) -> float:
    """Seconds of one pass of `images` `(N, 3, H, W)` through the network as it is evaluated, after one to warm up."""
    model.eval()
    model(images)
    _wait(device)
    started = perf_counter()
    model(images)
    _wait(device)
    return perf_counter() - started


def _backward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, device: Device | None) -> None:
    """Gradients of the mean loss; under the device's autocast, or in fp32 where `device` is None."""
    autocast = None if device is None else device.autocast
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        logits = model(images).float()
    nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]


class _Kept:
    """Counts what autograd keeps for the backward pass: each storage once, those `besides` not at all."""

    def __init__(self, besides: Collection[int]) -> None:
        self._besides = besides
        self._found: dict[int, int] = {}  # address -> bytes

    def pack(self, tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._besides:
            self._found[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(self._found.values())


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _wait(device: Device) -> None:
    if device.place.type == "cuda":
        torch.cuda.synchronize(device.place)
