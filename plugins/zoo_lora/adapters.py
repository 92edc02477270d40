"""LoRA adapters: peft's low-rank layers, added to a network before training and merged into it afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from zoo.backbone import BuildSpec, Network
from zoo.errors import UsageError
from zoo.preprocess import ImageSize, height_width
from zoo.stage import Anatomy, Stage

ADDED = (".lora_A.", ".lora_B.")


def attach(network: Network, spec: BuildSpec, rank: int, alpha: float) -> Network:
    """Add an adapter to each layer that supports one; the network's output does not change until it is trained.

    Raises:
        UsageError: peft is not installed, the network has adapters already, or no layer supports one.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(
            "strategy `lora` needs the library peft, which is not installed",
            hint="`pip install 'backbone-zoo[lora]'`",
        ) from error
    anatomy = network.anatomy
    if anatomy.added:
        raise UsageError("`lora` is used twice in one strategy", hint="use it once, with a higher rank")
    assert spec.image_size is not None
    targets = _targets(network, spec.image_size, rank)
    if not targets:
        raise UsageError(
            f"`{anatomy.backbone}` has no linear or plain convolutional layer that is wider than rank {rank}",
            hint="use a lower rank, or `partial:2`",
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets)
    training = network.model.training
    inject_adapter_in_model(config, network.model)
    network.model.train(training)
    names = [name for name, _ in network.model.named_parameters()]
    return replace(network, anatomy=_with_adapters(anatomy, names))


def merge(network: Network) -> Network:
    """Merge the adapters into their layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    anatomy = network.anatomy
    for path, module in list(network.model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            with torch.no_grad():
                module.merge()
            parent, _, name = path.rpartition(".")
            setattr(network.model.get_submodule(parent), name, module.get_base_layer())
    stages = tuple(
        Stage(name=stage.name, parameters=tuple(_own(name) for name in stage.parameters if name not in anatomy.added))
        for stage in anatomy.stages
    )
    return replace(network, anatomy=replace(anatomy, stages=stages, added=frozenset()))


def _targets(network: Network, size: ImageSize, rank: int) -> list[str]:
    """Paths of the layers outside the head that support an adapter.

    Only exact types count, because subclasses such as a convolution that standardises its weights compute something
    else with a changed weight. Only layers that are called count: attention that reads `layer.weight` directly would
    bypass the adapter.
    """
    head = set(network.anatomy.head.parameters)
    found = {
        path: module
        for path, module in network.model.named_modules()
        if f"{path}.weight" not in head and _is_wide(module, rank)
    }
    called: dict[str, int] = {}
    handles = [
        module.register_forward_hook(lambda *_, path=path: called.update({path: called.get(path, 0) + 1}))
        for path, module in found.items()
    ]
    training = network.model.training
    network.model.eval()
    try:
        with torch.no_grad():
            network.model(next(network.model.parameters()).new_zeros(1, 3, *height_width(size)))
    finally:
        for handle in handles:
            handle.remove()
        network.model.train(training)
    return [path for path in found if path in called]


def _is_wide(module: nn.Module, rank: int) -> bool:
    if type(module) is nn.Linear:
        return min(module.in_features, module.out_features) > rank
    if type(module) is nn.Conv2d and module.groups == 1:
        return min(module.weight[0].numel(), module.out_channels) > rank
    return False


def _own(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _with_adapters(anatomy: Anatomy, names: list[str]) -> Anatomy:
    """The anatomy with the new parameter names; an adapter belongs to the stage of its layer."""
    stage_of = {name: stage.name for stage in anatomy.stages for name in stage.parameters}
    weights = {name.removesuffix(".weight"): stage for name, stage in stage_of.items() if name.endswith(".weight")}
    added = {name for name in names if any(mark in name for mark in ADDED)}
    held: dict[str, list[str]] = {stage.name: [] for stage in anatomy.stages}
    for name in names:
        if name in added:
            layer = name.partition(".lora_A.")[0].partition(".lora_B.")[0]
            held[weights[layer]].append(name)
        elif _own(name) in stage_of:
            held[stage_of[_own(name)]].append(name)
    stages = tuple(Stage(name=stage.name, parameters=tuple(held[stage.name])) for stage in anatomy.stages)
    return replace(anatomy, stages=stages, added=frozenset(added))
