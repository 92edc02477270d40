"""Freezing: carry out one phase on a model, and prove that nothing frozen moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from zoo.errors import ZooError
from zoo.stage import Anatomy
from zoo.strategy import Norm, Phase

# Layers whose buffers follow the batches in training mode
RUNNING_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer has running statistics that training would move. timm's own batch norms are subclasses."""
    return isinstance(module, RUNNING_NORMS) and module.track_running_stats


def apply_phase(model: nn.Module, anatomy: Anatomy, phase: Phase) -> None:
    """Set `requires_grad` and the train and eval modes of a phase, in place."""
    trained = set(anatomy.parameters_of(phase.trains))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    set_modes(model, phase.norm)


def set_modes(model: nn.Module, norm: Norm) -> None:
    """Train mode for what trains, eval for what is frozen, by `requires_grad` as it stands.

    Modules without parameters follow their place: before the first trainable one they are in eval, after it they
    train, so that a dropout in front of a head works and one in a frozen stem does not.
    """
    _set_mode(model, reached=False)
    if norm != "train":
        for module in model.modules():
            if keeps_statistics(module):
                module.training = False


def _set_mode(module: nn.Module, reached: bool) -> bool:
    """Set modes below `module`; `reached` says whether something trainable came before. Returns it afterwards."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    if not flags:
        module.train(reached)
        return reached
    if all(flags) or not any(flags):
        module.train(flags[0])
        return reached or flags[0]
    module.training = True
    for child in module.children():
        reached = _set_mode(child, reached)
    return reached


class FrozenProof:
    """A digest of everything that a phase must not move; `check` raises if any of it did.

    It covers every parameter with `requires_grad=False`; every buffer of a module whose parameters are all frozen,
    whatever its mode; and, unless the norm policy is `train`, the running statistics of every layer that keeps some
    (`num_batches_tracked` too), also under affine parameters that train.
    """

    def __init__(self, model: nn.Module, norm: Norm) -> None:
        self._model = model
        self._norm = norm
        self._digests = {name: _digest(tensor) for name, tensor in self._frozen()}

    def __len__(self) -> int:
        return len(self._digests)

    def _frozen(self) -> Iterable[tuple[str, torch.Tensor]]:
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                yield name, parameter
        for prefix, module in self._model.named_modules():
            flags = [parameter.requires_grad for parameter in module.parameters()]
            held = bool(flags) and not any(flags)
            if held or not module.training or (self._norm != "train" and keeps_statistics(module)):
                for name, buffer in module.named_buffers(recurse=False):
                    yield f"{prefix}.{name}" if prefix else name, buffer

    def check(self, when: str) -> None:
        """Compare with the baseline.

        Raises:
            ZooError: naming the first tensor that moved, or that is no longer frozen.
        """
        now = {name: _digest(tensor) for name, tensor in self._frozen()}
        for name, digest in self._digests.items():
            if now.get(name) != digest:
                raise ZooError(
                    f"frozen tensor `{name}` moved {when}",
                    hint="this is a fault of the strategy or of the backbone, not of your data; please report it",
                )


def _digest(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).digest()


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Compute running statistics anew from batches `(N, 3, H, W)`, averaged by images; returns how many layers.

    Source: the pre-pass of "precise batch normalisation", Wu and Johnson 2021, "Rethinking Batch in BatchNorm".
    """
    layers: list[Any] = [module for module in model.modules() if keeps_statistics(module)]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.training = True
    seen = 0
    try:
        for batch in batches:
            seen += len(batch)
            for layer in layers:
                layer.momentum = len(batch) / seen  # the mean over images so far, however long the batches are
            model(batch)
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.training = False
    return len(layers)
