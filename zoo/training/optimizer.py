"""The optimiser: the parameters that a phase trains, in groups that share a rate and a weight decay."""

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

_KIND_TEXTS: dict[Only, str] = {"norms": "normalisation parameters", "biases": "biases", "added": "attached parameters"}


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a rate and a weight decay.

    Attributes:
        names: of the parameters.
        lr: the highest rate of the schedule.
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float


def members(network: Network, group: Group) -> tuple[str, ...]:
    """Names of the parameters that a strategy's group trains, in order from input to output."""
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
    """Names of the parameters and buffers that a phase may change: those that it trains, or those of a solved head."""
    if phase.solver is None:
        return trained_by(network, phase)
    path = head_path(network)
    return tuple(name for name in network.model.state_dict() if name.startswith(f"{path}."))


def plan_groups(network: Network, phase: Phase, experiment: Experiment, lr: float) -> tuple[ParameterGroup, ...]:
    """The optimiser's groups of a phase at the run's rate `lr`; each trainable parameter is in exactly one.

    Biases and norms (parameters of one dimension or none) have no weight decay: He et al. 2019, "Bag of Tricks",
    section 3.1. Nor have stages whose weights or features are pulled towards the initial ones: in Li et al. 2018 and
    2019 the pull replaces it.
    Nor have groups whose strategy says so.

    Raises:
        UsageError: a group is limited to a kind of parameters that its stages do not have.
    """
    shapes = {name: parameter.ndim for name, parameter in network.model.named_parameters()}
    groups = []
    for group in phase.groups:
        names = members(network, group)
        if not names and group.only != "all":
            raise UsageError(
                f"strategy phase `{phase.name}`: `{network.anatomy.backbone}` has no {_KIND_TEXTS[group.only]} in "
                f"{' '.join(group.stages)}",
                hint="choose another strategy or backbone; `linear` and `full` work on every backbone",
            )
        pulled = (phase.pull or phase.feature_pull) and HEAD not in group.stages
        decay = 0.0 if pulled or not group.decays else experiment.weight_decay
        decayed = tuple(name for name in names if shapes[name] > 1)
        for value, some in ((decay, decayed), (0.0, tuple(name for name in names if shapes[name] <= 1))):
            if some:
                groups.append(ParameterGroup(names=some, lr=lr * phase.lr * group.lr, weight_decay=value))
    return tuple(groups)


def pulled_by(network: Network, phase: Phase) -> tuple[str, ...]:
    """Names of the parameters that a phase pulls towards their initial values: those it trains outside the head."""
    if not phase.pull:
        return ()
    head = set(network.anatomy.head.parameters)
    return tuple(name for name in trained_by(network, phase) if name not in head)


def make_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], experiment: Experiment) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or SGD with Nesterov momentum 0.9, over the planned groups.

    A step is one pass over a parameter and its state (`fused`), in place of ten of them.
    """
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
            return torch.optim.SGD(rows, momentum=0.9, nesterov=True, fused=True)
        return torch.optim.AdamW(rows, fused=True)
