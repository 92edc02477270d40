"""State dict: the tensors of a checkpoint by name, from network, optimiser and average, and back into them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

# Prefixes of tensor names: the model's state, the optimiser's state by parameter, the average's parameters
MODEL, OPTIMIZER, AVERAGE = "model/", "optimizer/", "average/"


def tensors_of(
    model: nn.Module,
    trained: Collection[str],
    optimizer: torch.optim.Optimizer | None,
    average: AveragedModel | None,
) -> dict[str, torch.Tensor]:
    """The `trained` parameters, every buffer, and the state of the optimiser and of the average.

    Parameters that were never trained are not saved: a resumed run builds them again.
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
    """Load what `tensors_of` returned, in place; each value keeps the memory layout of the run."""
    model.load_state_dict(_under(tensors, MODEL), strict=False)
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        for name, value in _under(tensors, OPTIMIZER).items():
            path, _, key = name.rpartition("/")
            parameter = parameters[path]
            # a step count stays on the CPU; a moment has its parameter's device and memory layout
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
