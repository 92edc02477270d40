"""Snapshots: a run's tensors by name, out of the objects that hold them and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

# Prefixes of names: the model's state, the optimiser's per parameter, the average's
MODEL, OPTIMIZER, AVERAGE = "model/", "optimizer/", "average/"


def tensors_of(
    model: nn.Module,
    trained: Collection[str],
    optimizer: torch.optim.Optimizer | None,
    average: AveragedModel | None,
) -> dict[str, torch.Tensor]:
    """The `trained` parameters, every buffer, and the state of the optimiser and of the average.

    What was never trained is as it was when the run started, and is built again rather than saved.
    """
    parameters = dict(model.named_parameters())
    kept = set(trained)
    found = {
        f"{MODEL}{name}": value for name, value in model.state_dict().items() if name in kept or name not in parameters
    }
    names = {id(parameter): name for name, parameter in parameters.items()}
    if optimizer is not None:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    found[f"{OPTIMIZER}{names[id(parameter)]}/{key}"] = value
    if average is not None:
        found[f"{AVERAGE}n_averaged"] = average.n_averaged
        for name, value in average.module.named_parameters():
            if name in kept:
                found[f"{AVERAGE}{name}"] = value
    return found


@torch.no_grad()
def load_tensors(
    tensors: Mapping[str, torch.Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: AveragedModel | None,
) -> None:
    """Put back what `tensors_of` took, in place, each value in the memory layout that it had."""
    model.load_state_dict(_under(tensors, MODEL), strict=False)
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        for name, value in _under(tensors, OPTIMIZER).items():
            path, _, key = name.rpartition("/")
            parameter = parameters[path]
            # a step count stays on the CPU; moments are laid out as their parameter
            optimizer.state[parameter][key] = (
                torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
            )
    if average is not None:
        values = _under(tensors, AVERAGE)
        average.n_averaged.copy_(values.pop("n_averaged"))
        own = dict(average.module.named_parameters())
        for name, value in values.items():
            own[name].copy_(value)


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
