"""Runtimes: engines that execute a run or a file while its latency is measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from zoo.errors import UsageError
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy.typing as npt

    from zoo.predictor import Predictor

DEVICES = ("cpu", "cuda", "rocm", "xpu", "mps")
NUMBERED = ("cuda", "rocm", "xpu")  # kinds of which a machine may have several

PHOTOGRAPH = (375, 500)  # height and width of the images that `--with-preprocess` sends: ImageNet's most frequent size


@dataclass(frozen=True)
class DeviceName:
    """The device that a user asks for: `auto`, `cpu`, `cuda`, `rocm`, `xpu` or `mps`; some with a number, as `cuda:1`.

    Attributes:
        kind: The text before the colon.
        ordinal: The number in `cuda:N`. None: no number was given.
    """

    kind: Literal["auto", "cpu", "cuda", "rocm", "xpu", "mps"]
    ordinal: int | None = None

    @classmethod
    def parse(cls, text: str) -> DeviceName:
        """Read the text of `--device`.

        Raises:
            UsageError: it has none of these forms.
        """
        found = re.fullmatch(r"(auto|cpu|cuda|rocm|xpu|mps)(?::(\d+))?", text)
        if found is None or (found[2] and found[1] not in NUMBERED):
            names = " ".join(("auto", *DEVICES, *(f"{kind}:N" for kind in NUMBERED)))
            raise UsageError(f"unknown device `{text}`", hint=f"known are {names}")
        return cls(found[1], int(found[2]) if found[2] else None)  # type: ignore[arg-type]  # the pattern says so

    @property
    def index(self) -> int:
        """Number of the device among those of its kind: N for `cuda:N`, else 0."""
        return self.ordinal or 0

    def __str__(self) -> str:
        return self.kind if self.ordinal is None else f"{self.kind}:{self.ordinal}"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The model that a runtime loads and how it is executed; the same for every subject of a latency measurement.

    Attributes:
        target: A run's folder or an exported file.
        device: One of `DEVICES`, or `cuda:N`.
        threads: Threads that one call may use.
        with_preprocess: False: the input is normalised pixels, the output logits. True: the input is images, the output
            probabilities.
        allow_fallback: Whether parts of the network may run on another device; the session's `notes` list them.
    """

    target: Path
    device: str = "cpu"
    threads: int = 1
    with_preprocess: bool = False
    allow_fallback: bool = False

    @property
    def ordinal(self) -> int:
        """Number of the device, as in `DeviceName.index`."""
        return DeviceName.parse(self.device).index


@dataclass(frozen=True, kw_only=True)
class Input:
    """The array that a session takes.

    Attributes:
        dtype: Name of its numpy dtype.
        shape: Its shape without the batch dimension.
        fixed_batch: The only batch size that the file accepts. None: any.
    """

    dtype: str
    shape: tuple[int, ...]
    fixed_batch: int | None = None

    def __str__(self) -> str:
        batch = "N" if self.fixed_batch is None else str(self.fixed_batch)
        return f"{self.dtype} ({', '.join([batch, *map(str, self.shape)])})"


class Session(Protocol):
    """A network that is loaded for timing, in a worker process of its own."""

    @property
    def provider(self) -> str:
        """What executes the network. It is read from the loaded network, since it may differ from what was asked."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on how the times were measured, such as the memory layout or nodes on another device."""
        ...

    @property
    def input(self) -> Input:
        """The array that `prepare` takes."""
        ...

    def prepare(self, batch: npt.NDArray[Any]) -> Callable[[], object]:
        """Bind one input batch. Each call of the result computes it once and returns when the outputs are there.

        On the CPU it returns them: an array, or several with that of `(N, classes)` first.
        """
        ...


# What every session has, whatever its class
SESSION: dict[str, Any] = {
    "provider": str,
    "notes": list[str],
    "input": Input,
    "prepare": Callable[..., Any],
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An engine that a plugin registers.

    Attributes:
        name: What `zoo bench --runtime` takes.
        summary: One line for `zoo list runtimes`.
        accepts: What it can load: `run`, or the name of an exporter.
        devices: Devices that it can run on, of `DEVICES`.
        available: `(device) -> str | None`: why it cannot run here, or None if it can. A callable or
            `"module:function"`. It is called in the main process and must not import the engine.
        load: `"module:function"` of `(Workload) -> Session`, which is called in a worker process. The function raises
            `ZooError` if the network would not run on the device that was asked for.
        open: `(path, device) -> Predictor`: open a file as a predictor, for `zoo verify --runtime`. None: it cannot.
        by_default: Whether `zoo bench` measures it without being asked to by `--runtime`.
    """

    name: str
    summary: str
    accepts: str
    devices: tuple[str, ...]
    available: str | Callable[[str], str | None] = field(repr=False)
    load: str = field(repr=False)
    open: str | Callable[[Path, str], Predictor] | None = field(repr=False, default=None)
    by_default: bool = True


__getattr__ = lazy_attributes(
    __name__,
    {
        "choose_device": "zoo.system.device:choose_device",
        "find_accelerator": "zoo.system.accelerator:find_accelerator",
        "name_of": "zoo.system.accelerator:name_of",
        "synchronise": "zoo.system.accelerator:synchronise",
        "cuda_devices": "zoo.system.cuda:cuda_devices",
        "keep_freed_memory": "zoo.system.cpu_memory:keep_freed_memory",
        "asked_threads": "zoo.system.processors:asked_threads",
        "usable_cpus": "zoo.system.processors:usable_cpus",
    },
)
