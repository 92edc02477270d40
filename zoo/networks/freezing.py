"""Freezing: which parameters are trainable in a phase, and the proof that nothing frozen changes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from zoo.errors import ZooError
from zoo.strategy import Norm

# Layers that update running statistics in training mode
RUNNING_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer has running statistics that training mode would update; timm's batch norms are subclasses."""
    return isinstance(module, RUNNING_NORMS) and module.track_running_stats


def apply_phase(model: nn.Module, trained: Collection[str], norm: Norm) -> None:
    """Make the named parameters trainable and all others frozen, and set train and eval modes, in place."""
    names = set(trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    set_modes(model, norm)


def set_modes(model: nn.Module, norm: Norm) -> None:
    """Put trainable modules in train mode and frozen ones in eval mode, according to `requires_grad`.

    A module without parameters is in train mode if a trainable module comes before it: a dropout between trainable
    modules is active, a dropout in a frozen stem is not.
    """
    _set_mode(model, reached=False)
    if norm != "train":
        for module in model.modules():
            if keeps_statistics(module):
                module.training = False


def _set_mode(module: nn.Module, reached: bool) -> bool:
    """Set the modes below `module`. `reached`: a trainable module came before it; returns the same for its end."""
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
    """A digest of everything that a phase must not change; `check` raises if something did change.

    It covers:

    - every parameter with `requires_grad=False`;
    - every buffer of a module whose parameters are all frozen, in either mode, and of a module in eval mode;
    - unless the norm policy is `train`, the running statistics of every layer that keeps them, with
      `num_batches_tracked`, even where the layer's affine parameters are trainable.
    """

    def __init__(self, model: nn.Module, norm: Norm, *, excluded: Collection[int] = ()) -> None:
        """Take the baseline. Tensors whose `id` is in `excluded` may change."""
        self._model = model
        self._norm = norm
        self._excluded = excluded
        self._digests = {name: _digest(tensor) for name, tensor in self._checked()}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digest(self) -> str:
        """One SHA-256 over the baseline, with which a resumed run checks that it is the same."""
        whole = hashlib.sha256()
        for name in sorted(self._digests):
            whole.update(f"{name}\0".encode() + self._digests[name])
        return whole.hexdigest()

    def _checked(self) -> Iterable[tuple[str, torch.Tensor]]:
        for name, tensor in self._frozen():
            if id(tensor) not in self._excluded:
                yield name, tensor

    def _frozen(self) -> Iterable[tuple[str, torch.Tensor]]:
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                yield name, parameter
        for prefix, module in self._model.named_modules():
            flags = [parameter.requires_grad for parameter in module.parameters()]
            frozen = bool(flags) and not any(flags)
            if frozen or not module.training or (self._norm != "train" and keeps_statistics(module)):
                for name, buffer in module.named_buffers(recurse=False):
                    yield f"{prefix}.{name}" if prefix else name, buffer

    def expect(self, digest: str) -> None:
        """Compare the baseline with the digest that a checkpoint holds.

        Raises:
            ZooError: the frozen tensors differ.
        """
        if self.digest != digest:
            raise ZooError(
                "the frozen tensors differ from those of the checkpoint",
                hint="the starting weights or the checkpoint changed; train again with `--force`",
            )

    def check(self, when: str) -> None:
        """Compare the frozen tensors with the baseline; `when` ends the error's message.

        Raises:
            ZooError: a tensor changed, or is no longer frozen; the message names the first one.
        """
        now = {name: _digest(tensor) for name, tensor in self._checked()}
        for name, digest in self._digests.items():
            if now.get(name) != digest:
                raise ZooError(
                    f"frozen tensor `{name}` changed {when}",
                    hint="this is a fault of the strategy or of the backbone, not of your data; please report it",
                )


def digest_of_state(model: nn.Module) -> str:
    """SHA-256 over the names and values of all tensors of a model's state."""
    return digest_of_tensors(model.state_dict())


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name}\0".encode() + _digest(tensor))
    return whole.hexdigest()


def _digest(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).digest()


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Compute running statistics anew from batches `(N, 3, H, W)`; returns the number of layers that have them.

    Each statistic is the mean over all images. Source: the pre-pass of "precise batch normalisation", Wu and Johnson
    2021, "Rethinking Batch in BatchNorm".
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
                layer.momentum = len(batch) / seen  # gives the mean over the images so far, for any batch sizes
            model(batch)
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.training = False
    return len(layers)
