"""Accelerators: what torch can compute on beside the CPU, and what differs between them.

torch calls a device of ROCm `cuda`, and its other devices by their own names. What differs is in `CAPABILITIES`; what
all have in common is asked of torch's module of the device, such as `torch.xpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zoo.errors import UsageError, ZooError, counted
from zoo.runtime import DeviceName


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What differs between the kinds of devices that torch computes on.

    Attributes:
        block: Images that the frozen part of a network computes at a time.
        pins: Whether page-locked memory speeds up the way to the device; it does not where memory is shared.
        float64: Whether the device computes in double precision.
        own_bf16: Whether `--precision auto` takes bf16 where the device reports it. On a CPU a measurement decides.
    """

    block: int
    pins: bool
    float64: bool = True
    own_bf16: bool = True


# `block`: with EfficientNet-Lite0, ResNet-50 and ConvNeXt-Tiny, a CPU computes 154, 33 and 30 images per second in
# blocks of 16; 133, 30 and 27 in blocks of 4; and no more in blocks of 32. That of XPU and MPS is CUDA's, not measured
CAPABILITIES = {
    "cpu": Capabilities(block=16, pins=False, own_bf16=False),
    "cuda": Capabilities(block=64, pins=True),
    "xpu": Capabilities(block=64, pins=True),
    "mps": Capabilities(block=64, pins=False, float64=False, own_bf16=False),
}
OTHERS = Capabilities(block=64, pins=False)

# Of each name that a user may give: what torch calls the device, and what messages call it
KINDS = {"cuda": ("cuda", "CUDA"), "rocm": ("cuda", "ROCm"), "xpu": ("xpu", "XPU"), "mps": ("mps", "MPS")}


def capabilities(place: torch.device) -> Capabilities:
    """What a device can do."""
    return CAPABILITIES.get(place.type, OTHERS)


def found_kinds() -> tuple[str, ...]:
    """The names of `KINDS` that this machine and this torch have a device for."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda" if torch.version.hip is None else "rocm")
    if torch.xpu.is_available():
        found.append("xpu")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)


def find_accelerator(asked: DeviceName) -> torch.device:
    """The device of a name such as `cuda:1`, `rocm`, `xpu` or `mps`. With ROCm, `cuda` is another name of `rocm`.

    Raises:
        ZooError: there is none.
        UsageError: there is one, of a lower number.
    """
    kind, label = KINDS[asked.kind]
    found = found_kinds()
    if asked.kind not in found and not (asked.kind == "cuda" and "rocm" in found):
        there = f"it has {' and '.join(KINDS[name][1] for name in found)} and the CPU" if found else "it has the CPU"
        raise ZooError(
            f"`--device {asked}`: this machine has no {label} device that torch can use; {there}",
            hint=f"pass `--device {found[0] if found else 'cpu'}`, or `--device auto` to use what is available"
            + ("; `nvidia-smi` shows CUDA devices" if asked.kind == "cuda" else ""),
        )
    count = torch.get_device_module(kind).device_count()
    if asked.index >= count:
        raise UsageError(
            f"`--device {asked}`: {'there is' if count == 1 else 'there are'} {counted(count, f'{label} device')}, "
            f"numbered from 0",
            hint=f"pass `--device {asked.kind}:0`",
        )
    return torch.device(kind if asked.ordinal is None else f"{kind}:{asked.ordinal}")


def label_of(place: torch.device) -> str:
    """What messages call the kind of a device, such as `ROCm`."""
    if place.type == "cuda" and torch.version.hip is not None:
        return "ROCm"
    return KINDS[place.type][1] if place.type in KINDS else place.type


def name_of(place: torch.device) -> str:
    """The name of a device, such as that of a card; the kind where torch tells no more."""
    ask: Callable[[torch.device], str] | None = getattr(_module(place), "get_device_name", None)
    return ask(place) if ask is not None else place.type


def synchronise(place: torch.device) -> None:
    """Wait until a device has computed what was asked of it. The CPU computes at once."""
    if place.type != "cpu":
        _call(_module(place).synchronize, place)


def release_memory(place: torch.device) -> None:
    """Give back the memory of a device that torch keeps for later."""
    if place.type != "cpu":
        _module(place).empty_cache()


def random_states() -> list[torch.Tensor]:
    """The states of the random generators of the CPU and of the accelerator, where there is one."""
    module = _accelerator_module()
    return [torch.get_rng_state(), *([] if module is None else [module.get_rng_state()])]


def set_random_states(states: list[torch.Tensor]) -> None:
    """Set what `random_states` returned."""
    torch.set_rng_state(states[0])
    module = _accelerator_module()
    if module is not None and len(states) > 1:
        module.set_rng_state(states[1])


def to_double(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in double precision: on its device, or on the CPU where the device has none."""
    return (tensor if capabilities(tensor.device).float64 else tensor.cpu()).double()


def _accelerator_module() -> Any:
    found = found_kinds()
    return torch.get_device_module(KINDS[found[0]][0]) if found else None


def _module(place: torch.device) -> Any:
    return torch.get_device_module(place)


def _call(function: Callable[..., None], place: torch.device) -> None:
    """Call a function of a device's module; that of MPS, which has one device, takes none."""
    if place.type == "mps":
        function()
    else:
        function(place)
