"""The optimizer: the parameters that a phase trains, in groups that share a rate and a weight decay; its steps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.config.choice import Choice
from zoo.errors import UsageError, ZooError, counted, first_line
from zoo.experiment import Experiment
from zoo.networks.building import norm_parameters
from zoo.networks.head import head_path
from zoo.stage import HEAD
from zoo.strategy import Group, Only, Phase
from zoo.system.lazy_compiler import without_compiler
from zoo.training.optimizer_state import pack

MEND = "the plugin must be mended; `zoo plugins` names its distribution"
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


def make_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], choice: Choice) -> torch.optim.Optimizer:
    """The chosen optimizer over the planned groups, checked. Its groups have `peak`, the highest rate of the schedule.

    Raises:
        ZooError: it cannot be made, is no optimizer, needs a closure, or has other parameters than the groups.
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
    peaks = {id(parameters[name]): group.lr for group in groups for name in group.names}
    function = choice.function(1)
    try:
        with without_compiler():
            made = function(rows)
    except (torch.OutOfMemoryError, MemoryError, ZooError):
        raise
    except Exception as error:
        raise ZooError(
            f"optimizer `{choice}` cannot be made: {type(error).__name__}: {first_line(error)}", hint=MEND
        ) from error
    wrong = _wrong_with(made, peaks)
    if wrong is not None:
        raise ZooError(f"optimizer `{choice}` {wrong}", hint=MEND)
    found: torch.optim.Optimizer = made
    for group in found.param_groups:
        group["peak"] = peaks[id(group["params"][0])]
    return found


def _wrong_with(made: Any, peaks: dict[int, float]) -> str | None:
    """What is wrong with an optimizer; `peaks` has the highest rate of each parameter, by its id."""
    if not isinstance(made, torch.optim.Optimizer):
        return f"is a `{type(made).__name__}`, not a `torch.optim.Optimizer`"
    needed = [
        name
        for name, one in inspect.signature(made.step).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        return f"needs `{needed[0]}` for a step: zoo computes the loss of a batch once, and can give none"
    held = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    if sorted(held) != sorted(peaks):
        return f"has {counted(len(held), 'parameter')} in its groups, and was given {len(peaks)}"
    if any(len({peaks[id(parameter)] for parameter in group["params"]}) != 1 for group in made.param_groups):
        return "puts parameters of different rates into one group"
    return None


def take_step(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Take a step with the gradients that the parameters have.

    Raises:
        ZooError: the optimizer, which messages call `name`, fails.
    """
    try:
        with without_compiler():
            optimizer.step()
    except (torch.OutOfMemoryError, MemoryError, ZooError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise
        raise ZooError(f"optimizer `{name}` failed: {type(error).__name__}: {first_line(error)}", hint=MEND) from error


def kept_numbers(choice: Choice) -> float:
    """How many float32 numbers the chosen optimizer keeps for each parameter after a step: 2 for `adamw`.

    Measured on a convolution of 32 x 16 x 3 x 3.

    Raises:
        ZooError: as `make_optimizer` and `take_step`.
    """
    layer = nn.Conv2d(16, 32, 3, bias=False)
    optimizer = make_optimizer(layer, (ParameterGroup(names=("weight",), lr=1e-3, weight_decay=0.0),), choice)
    layer.weight.grad = torch.ones_like(layer.weight)
    take_step(optimizer, str(choice))
    tensors, _ = pack(optimizer, str(choice))
    kept = sum(value.numel() * value.element_size() for value in tensors.values() if value.numel() > 1)
    return kept / (4 * layer.weight.numel())
