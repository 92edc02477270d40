"""Exporters: file formats that a run can be exported to, opened from, and verified in."""

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
    from zoo.unknown import UnknownScore


Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Training images that int8 quantisation is calibrated with, resized and cropped for the network.

    Attributes:
        ranges: `(N, crop, crop, 3)` uint8. The ranges of each layer's values are measured on these images.
        choices: `(M, crop, crop, 3)` uint8, other images. Every choice, such as a layer that stays in fp32, is made on
            these.
        labels: `(M,)`, class indices of `choices`.
    """

    ranges: npt.NDArray[np.uint8]
    choices: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """The input of an exporter: a trained network, and the metadata to store in the file.

    Attributes:
        model: The network in eval mode, on the CPU, in fp32.
        preprocess: Its preprocessing.
        classes: Names of its classes, in the order of the logits.
        metadata: JSON values to store in the file: backbone, strategy, weights, license, metrics, data, versions.
        file: Where to write. The caller renames the file to its final name once it is verified.
        precision: Number format of the network's weights and computations.
        preprocessing: `graph`: the file preprocesses images itself. `outside`: its input is normalised pixels.
        calibration: Images for int8; None in other precisions.
        max_drop: Accuracy that int8 may lose on `calibration.choices`.
        note: Receives notes for the user, one line each.
        kept: Results that the exporter may store here while it writes one precision, and reuse for the next.
        unknown: How strange an image is, as a further output. None: there is none.
    """

    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    metadata: dict[str, Any]
    file: Path
    precision: Precision = "fp32"
    preprocessing: str = "graph"
    calibration: Calibration | None = None
    max_drop: float = 0.01
    note: Callable[[str], None] = lambda text: None
    kept: dict[str, Any] = field(default_factory=dict)
    unknown: UnknownScore | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check that `verify` made: its name, whether it passed, and the measured value or the reason (`detail`).

    One that cannot be made on this machine is `skipped`, and has not passed.
    """

    name: str
    passed: bool
    detail: str
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class StageDifference:
    """How much an exported file and its run differ after one stage of the path from an image's bytes to its logits.

    Attributes:
        name: `decode`, `resize` or `network`.
        largest: Largest difference.
        mean: Mean difference.
        bound: Largest difference allowed. None: this stage has no bound of its own, and accuracy decides.
        unit: Unit of the differences, such as grey levels.
    """

    name: str
    largest: float
    mean: float
    bound: float | None
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the largest difference is within the bound."""
        return self.bound is None or self.largest <= self.bound

    def __str__(self) -> str:
        bound = "" if self.bound is None else f" (allowed: {self.bound:g})"
        return f"{self.name} differs by up to {self.largest:.3g} {self.unit}{bound}, {self.mean:.2g} on average"

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"name": self.name, "largest": self.largest, "mean": self.mean, "bound": self.bound, "unit": self.unit}


# Arrays in, arrays out: a part of a network, opened by an engine
Compute = Callable[["npt.NDArray[np.float32]"], "list[npt.NDArray[np.float32]]"]


@dataclass(frozen=True, kw_only=True)
class FrozenEngine:
    """An engine that computes the frozen part of a network in place of torch, on the CPU.

    What it computes is compared with torch on images of each run before it is used.

    Attributes:
        name: What `--engine` calls it.
        package: The module that it needs, such as `onnxruntime`.
        convert: `(module, inputs) -> bytes`: convert a torch module in eval mode, which returns a tuple of tensors, for
            inputs `(N, 3, H, W)` of this very shape.
        open: `(bytes, threads) -> (inputs -> list of arrays)`: open what `convert` returned. Calls compute with
            `threads` threads, which do not spin between calls. Equal inputs give equal bits. It computes in fp32.
        open_bf16: The same for runs in bf16: it computes in bf16, from and to fp32 arrays. None: the engine has no
            bf16, and in such runs what it computes in fp32 is rounded.
    """

    name: str
    package: str
    convert: str | Callable[[nn.Module, Any], bytes] = field(repr=False)
    open: str | Callable[[bytes, int], Compute] = field(repr=False)
    open_bf16: str | Callable[[bytes, int], Compute] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A file format that a plugin registers.

    A format needs `write`, `open` and `verify`. Every function is a callable or `"module:function"`. Only `write` may
    import torch, except in formats that only torch can read.

    Attributes:
        name: What `zoo export --to` takes.
        summary: One line for `zoo list exporters`.
        suffix: Suffix of its files, with the dot.
        write: `(spec)`: write `spec.file`, and beside it the other files of the format. The folder holds nothing else.
        open: `(path, device) -> Predictor`: open a file on `auto`, `cpu`, `cuda` or `cuda:N`.
        verify: `(path, device) -> list[Check]`: check a file by itself: its integrity and its golden inputs.
        golden: `(path) -> zoo.exporter.Golden`: the golden logits that a file records, by which
            `zoo verify --runtime` checks it on other engines. None: it cannot.
        annotate: `(path, parity)`: store in a file how much it differs from its run.
        refer: `(path, reference)`: store in a file how its predictions and the images look on the images that its run
            was scored on; see `zoo.exporting.reference`.
        stages: `(path, device, predictions, samples, advance) -> tuple[StageDifference, ...]`: find the stage between
            an image's bytes and its logits at which a file differs from its run.
        inspect: `(path) -> dict`: everything that a file records about itself. Under `precision` it has the precision
            that was asked for and its details, under `parity` what `annotate` stored.
        script: `() -> str`: the source of a program that checks files where zoo is not installed.
        foreign: `(path, device, preprocess, classes or None) -> Predictor`: open a file that zoo did not write.
        serve: `(path, device, threads, across_sizes) -> Predictor`: open a file for `zoo serve`, which calls it from
            several threads. Each call computes with `threads` threads. With `across_sizes` images of different sizes
            share a call of the network.
        beside: Names of further files that belong to a file, with `{name}` and `{stem}` for its name and stem.
        runtimes: Name of the runtime that files are meant for, by device (`cpu`, `cuda`).
        executable: `() -> str | None`: why files cannot be executed on this machine, or None if they can. Such a file
            is written and not compared with its run, which is said and recorded. No function: files always can.
        folder: Whether what it calls a file is a folder.
        devices: Devices that files can run on.
        precisions: Precisions that it can write.
        preprocessing: Where images can be preprocessed, the default first: `graph`, `outside`.
        scores_unknown: Whether files can have the score of unknown images; the runs that have one are exported to no
            other format.
        engine: Computes frozen parts of networks during training. None: the format has no such engine.
    """

    name: str
    summary: str
    suffix: str
    write: str | Callable[[ExportSpec], None] = field(repr=False)
    open: str | Callable[[Path, str], Predictor] = field(repr=False)
    verify: str | Callable[[Path, str], list[Check]] = field(repr=False)
    golden: str | Callable[[Path], Any] | None = field(repr=False, default=None)
    annotate: str | Callable[[Path, dict[str, Any]], None] | None = field(repr=False, default=None)
    refer: str | Callable[[Path, dict[str, Any]], None] | None = field(repr=False, default=None)
    stages: str | Callable[..., tuple[StageDifference, ...]] | None = field(repr=False, default=None)
    inspect: str | Callable[[Path], dict[str, Any]] | None = field(repr=False, default=None)
    script: str | Callable[[], str] | None = field(repr=False, default=None)
    foreign: str | Callable[..., Predictor] | None = field(repr=False, default=None)
    serve: str | Callable[[Path, str, int, bool], Predictor] | None = field(repr=False, default=None)
    executable: str | Callable[[], str | None] | None = field(repr=False, default=None)
    folder: bool = False
    beside: tuple[str, ...] = ()
    runtimes: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[Precision, ...] = ("fp32",)
    preprocessing: tuple[str, ...] = ("graph",)
    scores_unknown: bool = False
    engine: FrozenEngine | None = None


__getattr__ = lazy_attributes(
    __name__,
    {
        "find_exporter": "zoo.inference.opening:find_exporter",
        **{name: f"zoo.exporting.golden:{name}" for name in ("TOLERANCE", "Golden", "check_golden")},
        **{name: f"zoo.exporting.unknown_parity:{name}" for name in ("UNKNOWN_TOLERANCE", "score_differences")},
        "golden_photographs": "zoo.exporting.golden_inputs:golden_photographs",
        **{name: f"zoo.storage.files:{name}" for name in ("SCHEMA", "check_schema", "json_text", "write_bytes")},
    },
)
