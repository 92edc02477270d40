"""Exporter: a file format that a run can be written to, read back from, and verified in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.preprocess import Preprocess
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from zoo.predictor import Predictor


Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Training photographs for int8, as the network is shown them: `(N, crop, crop, 3)` uint8.

    What values a layer takes is read off `ranges`; whatever is chosen is chosen on `choices`, which are others.
    """

    ranges: npt.NDArray[np.uint8]
    choices: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]  # of `choices`


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What an exporter is given: the trained network and everything that the file should say about itself."""

    model: nn.Module  # in eval mode, on the CPU, fp32
    preprocess: Preprocess
    classes: tuple[str, ...]
    metadata: dict[str, Any]  # JSON values: backbone, strategy, weights, license, metrics, data, versions
    file: Path  # where to write; the caller renames it into place once verified
    precision: Precision = "fp32"
    preprocessing: str = "graph"  # or `outside`: the file takes normalised pixels
    calibration: Calibration | None = None  # for int8
    max_drop: float = 0.01  # accuracy that int8 may lose on `calibration.choices`
    note: Callable[[str], None] = lambda text: None
    kept: dict[str, Any] = field(
        default_factory=dict
    )  # what an exporter made for one precision and may use in the next


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that `verify` looked at: whether it held, and the figure."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class StageDifference:
    """How far a file and its run lie apart after one stage of the way from bytes to label."""

    name: str  # decode, resize, network
    largest: float
    mean: float
    bound: float | None  # of `largest`; None: it may differ, and something else says by how much
    unit: str

    @property
    def passed(self) -> bool:
        return self.bound is None or self.largest <= self.bound

    def __str__(self) -> str:
        may = "" if self.bound is None else f" (may {self.bound:g})"
        return f"{self.name} differs by up to {self.largest:.3g} {self.unit}{may}, {self.mean:.2g} on average"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "largest": self.largest, "mean": self.mean, "bound": self.bound, "unit": self.unit}


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A row of the catalogue; each verb is a callable or `"module:function"`. The first three are what a format needs.

    Only `write` may import torch, except in formats that torch alone can read.
    """

    name: str
    summary: str
    suffix: str  # of its files, with the dot
    # Writes `spec.file`, and beside it, in a folder of its own, whatever more the format has
    write: str | Callable[[ExportSpec], None] = field(repr=False)
    # Reads it back, on `auto`, `cpu`, `cuda` or `cuda:N`
    open: str | Callable[[Path, str], Predictor] = field(repr=False)
    # Looks at a file by itself: integrity and golden inputs
    verify: str | Callable[[Path, str], list[Check]] = field(repr=False)
    # Has a file say how far it lies from its run
    annotate: str | Callable[[Path, dict[str, Any]], None] | None = field(repr=False, default=None)
    # (path, device, predictions, samples, advance): where on the way from bytes to label a file parts from its run
    stages: str | Callable[..., tuple[StageDifference, ...]] | None = field(repr=False, default=None)
    # All that a file says about itself; under `precision` and `parity` what `ExportSpec` and `annotate` told it
    inspect: str | Callable[[Path], dict[str, Any]] | None = field(repr=False, default=None)
    # A program that checks such files where there is no zoo
    script: str | Callable[[], str] | None = field(repr=False, default=None)
    # (path, device, preprocess, classes or None): a predictor of a file of other making
    foreign: str | Callable[..., Predictor] | None = field(repr=False, default=None)
    beside: tuple[str, ...] = ()  # files that may lie beside a file, of its `{name}` and `{stem}`
    runtimes: Mapping[str, str] = field(default_factory=dict)  # that files are meant for, by device: `cpu`, `cuda`
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[Precision, ...] = ("fp32",)
    preprocessing: tuple[str, ...] = (
        "graph",
    )  # where photographs are prepared: `graph`, `outside`; by default the first


__getattr__ = lazy_attributes(__name__, {"find_exporter": "zoo.inference.opening:find_exporter"})
