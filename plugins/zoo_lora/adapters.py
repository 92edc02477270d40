"""Adapters of the library peft, added to a network before training and merged into its layers afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.backbone import BuildSpec, Network
from zoo.errors import UsageError
from zoo.preprocess import ImageSize, height_width
from zoo.stage import Anatomy, Stage

if TYPE_CHECKING:
    from peft import PeftConfig

# What the names of peft's parameters have after the path of their layer
ADDED = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".ia3_l.")


def attach_low_rank(
    network: Network, spec: BuildSpec, rank: int, alpha: float, *, magnitudes: bool, strategy: str
) -> Network:
    """Add a low-rank adapter to each layer that supports one; the output does not change until it is trained.

    Args:
        network: changed in place.
        spec: for the size of its images.
        rank: of the updates.
        alpha: updates are multiplied by alpha / rank.
        magnitudes: whether the lengths of the weights of each output train apart from their directions, as in DoRA.
        strategy: the name of the strategy, for messages.

    Raises:
        UsageError: peft is not installed, the network has adapters already, or no layer supports one.
    """
    _check(network, strategy)
    from peft import LoraConfig

    assert spec.image_size is not None
    targets = _targets(
        network, spec.image_size, lambda module: _is_wide(module, rank) and not (magnitudes and _has_no_length(module))
    )
    if not targets:
        raise UsageError(
            f"`{network.anatomy.backbone}` has no linear or plain convolutional layer that is wider than rank {rank}",
            hint="use a lower rank, or `partial:2`",
        )
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=_pattern(targets), use_dora=magnitudes
    )
    return _inject(network, config)


def attach_scales(network: Network, spec: BuildSpec, strategy: str) -> Network:
    """Add a vector of factors to each linear and convolutional layer; the output does not change until it is trained.

    A linear layer that narrows its input, which is the second one of a feed-forward block, has factors of its inputs;
    every other layer has factors of its outputs.

    Raises:
        UsageError: peft is not installed, the network has adapters already, or no layer supports one.
    """
    _check(network, strategy)
    from peft import IA3Config

    assert spec.image_size is not None
    targets = _targets(network, spec.image_size, lambda module: type(module) in (nn.Linear, nn.Conv2d))
    if not targets:
        raise UsageError(
            f"`{network.anatomy.backbone}` has no plain linear or convolutional layer that `{strategy}` could scale",
            hint="use `norm`, `bitfit` or `partial:2`",
        )
    modules = dict(network.model.named_modules())
    narrow = [path for path in targets if _narrows(modules[path])]
    return _inject(network, IA3Config(target_modules=_pattern(targets), feedforward_modules=_pattern(narrow)))


def _check(network: Network, strategy: str) -> None:
    """Raise a `UsageError` where peft is not installed, or the network has adapters already."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"strategy `{strategy}` needs the library peft, which is not installed",
            hint="`pip install 'backbone-zoo[lora]'`",
        ) from error
    if network.anatomy.added:
        raise UsageError(
            f"`{strategy}` comes after other adapters: of `lora`, `dora` and `ia3`, one can be used, and once",
            hint="use one of them; a higher rank changes more",
        )


def _pattern(paths: Iterable[str]) -> str:
    """What peft matches whole paths with; a list of paths would also match layers whose path ends in one of them."""
    return f"(?:{'|'.join(re.escape(path) for path in paths) or '(?!)'})$"


def _inject(network: Network, config: PeftConfig) -> Network:
    from peft import inject_adapter_in_model
    from peft.tuners.lora import Conv2d
    from peft.tuners.lora.dora import DoraConv2dLayer

    from zoo_lora.pointwise import compute_with_sums

    training = network.model.training
    inject_adapter_in_model(config, network.model)
    network.model.train(training)
    layer: Any
    for layer in network.model.modules():
        if isinstance(layer, Conv2d):
            for lora_A in layer.lora_A.values():
                lora_A.dilation = layer.get_base_layer().dilation  # which peft forgets
        if isinstance(layer, DoraConv2dLayer):
            layer.get_lora_weight = _convolution_update
    compute_with_sums(network.model)
    names = [name for name, _ in network.model.named_parameters()]
    return replace(network, anatomy=_with_adapters(network.anatomy, names))


def _convolution_update(lora_A: nn.Conv2d, lora_B: nn.Conv2d, adapter_name: str | None = None) -> torch.Tensor:
    """The update `(outputs, inputs * H * W)` of a convolution's weights; peft's own fails for channels-last weights."""
    return lora_B.weight.flatten(1) @ lora_A.weight.flatten(1)


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


def _targets(network: Network, size: ImageSize, fits: Callable[[nn.Module], bool]) -> list[str]:
    """Paths of the layers outside the head that support an adapter.

    `fits` must accept exact types only, because subclasses such as a convolution that standardises its weights compute
    something else with a changed weight. Only layers that are called count: attention that reads `layer.weight`
    directly would bypass the adapter.
    """
    head = set(network.anatomy.head.parameters)
    found = {
        path: module for path, module in network.model.named_modules() if f"{path}.weight" not in head and fits(module)
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
    if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":  # others peft pads by zeros
        return min(module.weight[0].numel(), module.out_channels) > rank
    return False


def _has_no_length(module: nn.Module) -> bool:
    """Whether all weights of one of the outputs are zero, so that they have no direction."""
    weight = module.get_parameter("weight").detach()
    return not bool(weight.flatten(1).any(1).all())


def _narrows(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.in_features > module.out_features


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
            mark = next(mark for mark in ADDED if mark in name)
            held[weights[name.partition(mark)[0]]].append(name)
        elif _own(name) in stage_of:
            held[stage_of[_own(name)]].append(name)
    stages = tuple(Stage(name=stage.name, parameters=tuple(held[stage.name])) for stage in anatomy.stages)
    return replace(anatomy, stages=stages, added=frozenset(added))
