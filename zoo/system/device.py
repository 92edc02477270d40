"""Device and precision: which ones are used, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import thread_time

import torch

from zoo.errors import ZooError
from zoo.experiment import TrainingPrecision
from zoo.runtime import DeviceName
from zoo.storage.cache import memoise, source_key
from zoo.system.accelerator import KINDS, capabilities, find_accelerator, found_kinds, label_of, name_of
from zoo.system.cpu_memory import keep_freed_memory
from zoo.system.environment import machine
from zoo.system.fast_gradients import FastGradients
from zoo.system.processors import asked_threads, usable_cpus
from zoo.system.spinning import spin_only_while_alone

# `auto` chooses bf16 on a CPU if a layer takes at most this share of its time in fp32. A smaller gain is not worth the
# coarser rounding
BF16_WORTH = 0.8


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that a run computes on, and its precision.

    Attributes:
        place: The torch device.
        autocast: The dtype of autocast while training. None: fp32, without autocast.
        reason: Why this device was chosen, for the user.
    """

    place: torch.device
    autocast: torch.dtype | None
    reason: str

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`."""
        return "fp32" if self.autocast is None else "bf16"


@contextmanager
def training_precision(device: Device, compiled: bool = False) -> Iterator[None]:
    """A context for the forward pass of a training step: it computes in the device's precision.

    `compiled` says whether the network is compiled; `FastGradients` is then not used.
    """
    with torch.autocast(device.place.type, device.autocast, enabled=device.autocast is not None):
        if device.place.type == "cpu" and not compiled:
            with FastGradients():
                yield
        else:
            yield


@cache
def fit_threads() -> None:
    """Have torch compute with the threads that were asked for, else with no more than there are processors.

    Once in a process: a run that is resumed then sets the number that it was started with.
    """
    # torch itself knows of no quota, and takes no more threads than there are cores from the variable
    wanted = asked_threads() or min(torch.get_num_threads(), usable_cpus())
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def choose_device(asked: str, precision: TrainingPrecision = "auto") -> Device:
    """Resolve a name of `--device`, see `DeviceName`, and prepare the process for the device.

    `auto` takes CUDA or ROCm, else the CPU: the others are taken only by name, since zoo was never run on them.

    Raises:
        UsageError: `asked` is not a device, or its number is too high.
        ZooError: the device is not available, or has no bf16.
    """
    name = DeviceName.parse(asked)
    if name.kind == "auto":
        device, why = _automatic()
    elif name.kind == "cpu":
        device, why = torch.device("cpu"), "as asked"
    else:
        device = find_accelerator(name)
        label = label_of(device)
        why = "as asked" if label == "CUDA" else f"as asked: {label}, {name_of(device)}"
    if precision == "bf16" and device.type != "cpu" and not _reports_bf16(device):
        raise ZooError(f"`{device}` has no bf16", hint="pass `--precision fp32`")
    if device.type == "cpu":
        fit_threads()
        keep_freed_memory()
        spin_only_while_alone()
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return Device(place=device, autocast=torch.bfloat16 if bf16 else None, reason=why)


def _automatic() -> tuple[torch.device, str]:
    """The device that `auto` takes, and why."""
    found = found_kinds()
    if "cuda" in found or "rocm" in found:
        device = torch.device("cuda")
        return device, f"auto: {name_of(device)} was found"
    untried = f"; `--device {found[0]}` takes the {KINDS[found[0]][1]} device" if found else ""
    return torch.device("cpu"), f"auto: no CUDA device was found{untried}"


def _reports_bf16(device: torch.device) -> bool:
    """Whether an accelerator computes in bf16 by itself, without emulation."""
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    ask = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return ask is not None and bool(ask(including_emulation=False))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether computing in bf16 is faster than in fp32.

    On a CPU this is measured once and stored, so that every run chooses the same. The features that a processor lists
    do not show it: an Intel processor of 2023 with AVX-512 BF16 and without AMX takes nearly twice as long in bf16 as
    in fp32; with AVX2 only, it takes ten times as long.
    """
    if device.type != "cpu":
        return capabilities(device).own_bf16 and _reports_bf16(device)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, name, lambda: False)() for name in probes):
        return False
    key = f"{machine()['processor']} torch {torch.__version__} {source_key(Path(__file__))}"
    return memoise("bf16", key, _bf16_pays, encode=bool, decode=bool)


def _bf16_pays() -> bool:
    """Time one convolution, forward and backward, in both precisions alternately: the best of five, about 100 ms.

    Processor time of one thread, so that a busy machine finds the same as an idle one.
    """
    images = torch.full((4, 64, 28, 28), 0.5).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.full((64, 64, 3, 3), 0.5, requires_grad=True)
    best = dict.fromkeys((False, True), float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(6):  # the first warms up
            for bf16 in best:
                started = thread_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    output = torch.conv2d(images, weight, padding=1)
                output.float().sum().backward()  # type: ignore[no-untyped-call]
                best[bf16] = min(best[bf16], thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best[True] <= BF16_WORTH * best[False]
