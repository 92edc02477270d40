"""Freezing: carry out one phase on a model, and prove that nothing frozen moves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from zoo.errors import ZooError
from zoo.strategy import Norm

# Layers whose buffers follow the batches in training mode
RUNNING_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer has running statistics that training would move. timm's own batch norms are subclasses."""
    return isinstance(module, RUNNING_NORMS) and module.track_running_stats


def apply_phase(model: nn.Module, trained: Collection[str], norm: Norm) -> None:
    """Set `requires_grad` of the named parameters, and of no other, and the train and eval modes, in place."""
    names = set(trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    set_modes(model, norm)


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

    def __init__(self, model: nn.Module, norm: Norm, *, besides: Collection[int] = ()) -> None:
        """Take the baseline. Tensors whose `id` is in `besides` may move."""
        self._model = model
        self._norm = norm
        self._besides = besides
        self._digests = {name: _digest(tensor) for name, tensor in self._frozen()}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digest(self) -> str:
        """One SHA-256 over the baseline, to tell after a restart that it is still the same."""
        whole = hashlib.sha256()
        for name in sorted(self._digests):
            whole.update(f"{name}\0".encode() + self._digests[name])
        return whole.hexdigest()

    def _frozen(self) -> Iterable[tuple[str, torch.Tensor]]:
        for name, tensor in self._held():
            if id(tensor) not in self._besides:
                yield name, tensor

    def _held(self) -> Iterable[tuple[str, torch.Tensor]]:
        for name, parameter in self._model.named_parameters():
            if not parameter.requires_grad:
                yield name, parameter
        for prefix, module in self._model.named_modules():
            flags = [parameter.requires_grad for parameter in module.parameters()]
            held = bool(flags) and not any(flags)
            if held or not module.training or (self._norm != "train" and keeps_statistics(module)):
                for name, buffer in module.named_buffers(recurse=False):
                    yield f"{prefix}.{name}" if prefix else name, buffer

    def expect(self, digest: str) -> None:
        """Compare the baseline with that of the session before.

        Raises:
            ZooError: what is frozen is not what it was.
        """
        if self.digest != digest:
            raise ZooError(
                "what is frozen is not what it was when the run was saved",
                hint="the starting weights changed, or the checkpoint was; train again with `--force`",
            )

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


def digest_of_state(model: nn.Module) -> str:
    """SHA-256 over every tensor of a model's state, by name."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name}\0".encode() + _digest(tensor))
    return whole.hexdigest()


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
