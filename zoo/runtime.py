"""Runtime: what executes a run or a file while its latency is measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from zoo.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

PHOTOGRAPH = (375, 500)  # height and width of what `--with-preprocess` sends: the commonest size in ImageNet


@dataclass(frozen=True)
class DeviceName:
    """A device as it is asked for: `auto`, `cpu`, `cuda` or `cuda:N`."""

    kind: Literal["auto", "cpu", "cuda"]
    ordinal: int | None = None  # of `cuda:N`

    @classmethod
    def parse(cls, text: str) -> DeviceName:
        """Read the text of `--device`.

        Raises:
            UsageError: it is none of the four forms.
        """
        found = re.fullmatch(r"(auto|cpu|cuda)(?::(\d+))?", text)
        if found is None or (found[2] and found[1] != "cuda"):
            raise UsageError(f"unknown device `{text}`", hint="known are auto cpu cuda cuda:N")
        return cls(found[1], int(found[2]) if found[2] else None)  # type: ignore[arg-type]  # the pattern says so

    @property
    def index(self) -> int:
        """Number of the CUDA device: that of `cuda:N`, else 0."""
        return self.ordinal or 0

    def __str__(self) -> str:
        return self.kind if self.ordinal is None else f"{self.kind}:{self.ordinal}"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a runtime is asked to load, the same for every contender.

    `with_preprocess` is False: normalised pixels in, logits out. True: photographs in, probabilities out.
    """

    target: Path  # a run's folder or a file
    device: str = "cpu"  # `cpu`, `cuda` or `cuda:N`
    threads: int = 1  # that one call may compute with
    with_preprocess: bool = False
    allow_fallback: bool = False  # True: parts of the network may leave the device, and are listed

    @property
    def ordinal(self) -> int:
        """Number of the CUDA device: 1 for `cuda:1`, 0 for `cuda`."""
        return DeviceName.parse(self.device).index


@dataclass(frozen=True, kw_only=True)
class Input:
    """The array that a session takes: a numpy dtype, and a shape without the batch."""

    dtype: str
    shape: tuple[int, ...]
    fixed_batch: int | None = None  # the only batch size that a file accepts, if it has no dynamic batch

    def __str__(self) -> str:
        batch = "N" if self.fixed_batch is None else str(self.fixed_batch)
        return f"{self.dtype} ({', '.join([batch, *map(str, self.shape)])})"


class Session(Protocol):
    """A network loaded for timing; lives in a worker process of its own."""

    @property
    def provider(self) -> str:
        """What really executes, read from the session and not from what was asked for."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know: nodes that left the provider, a layout that was chosen."""
        ...

    @property
    def input(self) -> Input:
        """What `prepare` takes."""
        ...

    def prepare(self, batch: npt.NDArray[Any]) -> Callable[[], object]:
        """Bind one input batch; the call returned runs it once, to the end, outputs included."""
        ...


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A row of the catalogue.

    `available(device) -> str | None` says why it cannot run here (None: it can); it is called in the main process
    and imports no framework. `load(Workload) -> Session` is called in a worker process, hence its name
    `"module:function"`; it raises `ZooError` where it would not run on the device it was asked for.
    """

    name: str
    summary: str
    accepts: str  # `run` or an exporter's name
    devices: tuple[str, ...]  # of `cpu`, `cuda`: those it can run on
    available: str | Callable[[str], str | None] = field(repr=False)
    load: str = field(repr=False)
