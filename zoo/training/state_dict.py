"""State dict: the tensors of a checkpoint by name, from network and average, and back into them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

# Prefixes of tensor names: the model's state, the average's parameters
MODEL, AVERAGE = "model/", "average/"


def tensors_of(
    model: nn.Module,
    trained: Collection[str],
    average: AveragedModel | None,
) -> dict[str, torch.Tensor]:
    """The `trained` parameters, every buffer, and the state of the average.

    Parameters that were never trained are not saved: a resumed run builds them again.
    """
    parameters = dict(model.named_parameters())
    kept = set(trained)
    found = {
        f"{MODEL}{name}": value for name, value in model.state_dict().items() if name in kept or name not in parameters
    }
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
    average: AveragedModel | None,
) -> None:
    """Load what `tensors_of` returned, in place; each value keeps the memory layout of the run."""
    model.load_state_dict(_under(tensors, MODEL), strict=False)
    if average is not None:
        values = _under(tensors, AVERAGE)
        average.n_averaged.copy_(values.pop("n_averaged"))
        own = dict(average.module.named_parameters())
        for name, value in values.items():
            own[name].copy_(value)


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
