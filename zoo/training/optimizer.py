"""The optimiser: which parameters a phase trains, in which groups, at which rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.networks.building import norm_parameters
from zoo.networks.head import head_path
from zoo.stage import HEAD
from zoo.strategy import Group, Only, Phase
from zoo.system.lazy_compiler import without_compiler

_WORDS: dict[Only, str] = {"norms": "normalisation parameters", "biases": "biases", "added": "attached parameters"}


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a rate and a weight decay, by name."""

    names: tuple[str, ...]
    lr: float  # at its highest
    weight_decay: float


def members(network: Network, group: Group) -> tuple[str, ...]:
    """Names of the parameters that a strategy's group trains, input to output."""
    names = network.anatomy.parameters_of(group.stages)
    if group.only == "norms":
        norms = norm_parameters(network.model)
        return tuple(name for name in names if name in norms)
    if group.only == "biases":
        shapes = {name: parameter.ndim for name, parameter in network.model.named_parameters()}
        return tuple(name for name in names if name.endswith("bias") and shapes[name] <= 1)
    if group.only == "added":
        return tuple(name for name in names if name in network.anatomy.added)
    return names


def trained_by(network: Network, phase: Phase) -> tuple[str, ...]:
    """Names of all parameters that a phase trains."""
    return tuple(name for group in phase.groups for name in members(network, group))


def changed_by(network: Network, phase: Phase) -> tuple[str, ...]:
    """Names of what a phase changes: the parameters that it trains, or all that the head holds that it solves."""
    if phase.solver is None:
        return trained_by(network, phase)
    path = head_path(network)
    return tuple(name for name in network.model.state_dict() if name.startswith(f"{path}."))


def plan_groups(network: Network, phase: Phase, experiment: Experiment, lr: float) -> tuple[ParameterGroup, ...]:
    """The optimiser's groups of a phase at the run's rate `lr`: each trainable parameter in exactly one.

    Biases and norms (one dimension or none) are not decayed: He et al. 2019, "Bag of Tricks", section 3.1. Nor are
    stages that are pulled towards their start: Li et al. 2018 put that pull in the place of the decay.

    Raises:
        UsageError: a group is narrowed to parameters of which its stages have none.
    """
    shapes = {name: parameter.ndim for name, parameter in network.model.named_parameters()}
    groups = []
    for group in phase.groups:
        names = members(network, group)
        if not names and group.only != "all":
            raise UsageError(
                f"strategy phase `{phase.name}`: `{network.anatomy.backbone}` has no {_WORDS[group.only]} in "
                f"{' '.join(group.stages)}",
                hint="choose another strategy or backbone; `linear` and `full` work on all",
            )
        decay = 0.0 if phase.pull and HEAD not in group.stages else experiment.weight_decay
        decayed = tuple(name for name in names if shapes[name] > 1)
        for value, some in ((decay, decayed), (0.0, tuple(name for name in names if shapes[name] <= 1))):
            if some:
                groups.append(ParameterGroup(names=some, lr=lr * phase.lr * group.lr, weight_decay=value))
    return tuple(groups)


def pulled_by(network: Network, phase: Phase) -> tuple[str, ...]:
    """Names of the parameters that a phase pulls towards their start: what it trains outside the head."""
    if not phase.pull:
        return ()
    head = set(network.anatomy.head.parameters)
    return tuple(name for name in trained_by(network, phase) if name not in head)


def make_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], experiment: Experiment) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum 0.9, over the planned groups."""
    parameters = dict(model.named_parameters())
    rows = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "peak": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    with without_compiler():
        if experiment.optimizer == "sgd":
            return torch.optim.SGD(rows, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(rows)
