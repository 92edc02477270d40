"""Optimizer state: what an optimizer keeps between steps, as tensors by name and JSON values, and back, bit for bit.

It is the optimizer's own `state_dict`: state of parameters, groups and whatever else an optimizer adds, of tensors,
numbers, texts, lists, tuples and dicts in any depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from zoo.errors import ZooError, first_line
from zoo.system.lazy_compiler import without_compiler

# Prefix of tensor names in a checkpoint
OPTIMIZER = "optimizer/"


def pack(optimizer: torch.optim.Optimizer, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of an optimizer's state, by prefixed name, and all else as JSON values.

    Args:
        optimizer: it has taken any number of steps.
        name: what messages call it.

    Raises:
        ZooError: a value is of a type that cannot be saved, or shares memory with another one.
    """
    packing = _Packing(optimizer, name)
    described = {"device": _parameters(optimizer)[0].device.type, "state": packing.pack(_state(optimizer, name), "")}
    return packing.tensors, described


@torch.no_grad()
def unpack(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], described: Mapping[str, Any], name: str
) -> None:
    """Give an optimizer the state that `pack` returned; each tensor has the type, memory layout and device it had.

    On another device than the run began on, the optimizer itself decides where its tensors lie.

    Raises:
        ZooError: the optimizer does not take it.
    """
    place = _parameters(optimizer)[0].device
    there = place.type == described["device"]
    state = _unpacked(described["state"], tensors, place if there else None, {})
    try:
        with without_compiler():
            optimizer.load_state_dict(dict(state))
    except Exception as error:
        raise ZooError(
            f"optimizer `{name}` does not take its saved state: {type(error).__name__}: {first_line(error)}",
            hint="the plugin must be mended; `zoo plugins` names its distribution",
        ) from error
    if not there:
        return
    parameters = _parameters(optimizer)
    for index, values in state["state"].items():
        if isinstance(index, int) and isinstance(values, dict):
            mine = optimizer.state[parameters[index]]
            for key, value in values.items():  # torch casts state to the type of its parameter
                if key not in mine or not _alike(mine[key], value):
                    mine[key] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _state(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Any]:
    try:
        with without_compiler():
            return optimizer.state_dict()
    except Exception as error:
        raise ZooError(
            f"the state of optimizer `{name}` cannot be saved: {type(error).__name__}: {first_line(error)}",
            hint="the plugin must be mended; `zoo plugins` names its distribution",
        ) from error


class _Packing:
    def __init__(self, optimizer: torch.optim.Optimizer, name: str) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._name = name
        self._paths: dict[int, str] = {}  # of tensors, by identity: what stands in two places does so again
        self._storages = {value.untyped_storage().data_ptr() for value in _parameters(optimizer)}

    def pack(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return {"float": value.hex()}  # JSON has no NaN
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if type(value) in (list, tuple):
            values = [self.pack(one, f"{path}/{index}") for index, one in enumerate(value)]
            return {type(value).__name__: values}
        if isinstance(value, Mapping) and all(type(key) in (int, str) for key in value):
            return {"dict": [[key, self.pack(one, f"{path}/{key}")] for key, one in value.items()]}
        raise self._refused(path, f"is a `{type(value).__name__}`, which no checkpoint can hold")

    def _tensor(self, value: torch.Tensor, path: str) -> Any:
        known = self._paths.get(id(value))
        if known is None:
            if value.layout is not torch.strided or value.is_quantized or value.is_complex():
                raise self._refused(path, "is a tensor that is not dense and real")
            storage = value.untyped_storage().data_ptr()
            if value.numel() and storage in self._storages:
                raise self._refused(path, "shares memory with a parameter or with another tensor")
            self._storages.add(storage)
            known = self._paths[id(value)] = f"{OPTIMIZER}{path[1:]}"
            self.tensors[known] = value
        return {"tensor": known, "stride": torch.empty_like(value).stride(), "device": value.device.type}

    def _refused(self, path: str, why: str) -> ZooError:
        return ZooError(
            f"the state of optimizer `{self._name}` cannot be saved: `{path[1:]}` {why}",
            hint="the plugin must be mended; `zoo plugins` names its distribution",
        )


def _unpacked(
    value: Any, tensors: Mapping[str, torch.Tensor], place: torch.device | None, made: dict[str, torch.Tensor]
) -> Any:
    """The inverse of `_Packing.pack`; `place` is the parameters' device, None: all tensors stay on the CPU."""
    if not isinstance(value, Mapping):
        return value
    if "tensor" in value:
        name = value["tensor"]
        if name not in made:
            saved = tensors[name]
            device = place if place is not None and value["device"] == place.type else torch.device("cpu")
            empty = torch.empty_strided(tuple(saved.shape), tuple(value["stride"]), dtype=saved.dtype, device=device)
            made[name] = empty.copy_(saved)
        return made[name]
    if "float" in value:
        return float.fromhex(value["float"])
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "dict" in value:
        return {key: _unpacked(one, tensors, place, made) for key, one in value["dict"]}
    (kind, values) = next(iter(value.items()))
    found = [_unpacked(one, tensors, place, made) for one in values]
    return tuple(found) if kind == "tuple" else found


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal, tensors in their type, memory layout, device and bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (one.dtype, one.shape, one.stride(), one.device) == (
            other.dtype,
            other.shape,
            other.stride(),
            other.device,
        )
        return one is other or (same and torch.equal(one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_alike(mine, theirs) for mine, theirs in zip(one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
