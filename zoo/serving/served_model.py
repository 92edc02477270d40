"""A served model: an exported file that was verified, opened, warmed up and measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.data.pixel_budget import give_back_memory
from zoo.errors import UsageError, ZooError
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.inference.opening import find_exporter
from zoo.predictor import Predictor, ask, threshold_of
from zoo.system.worker_process import WorkerFailed, WorkerProcess
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins

BATCH_SIZES = (1, 2, 4, 8)
MEASURE_SECONDS = 1.0
ROUNDS = 5  # at least; in each of them a batch must be faster
GAIN = 0.1  # share of the time of an image that a batch must save


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How many images share a call of the network, and why.

    Attributes:
        size: Images in a call, at most.
        seconds: Least seconds for an image, by batch size, as they were measured.
    """

    size: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        each = ", ".join(f"{size}: {seconds * 1e3:.1f} ms" for size, seconds in self.seconds.items())
        why = f"saves {1 - self.seconds[self.size] / self.seconds[1]:.0%}" if self.size > 1 else "saves too little"
        return f"batches of up to {self.size} (an image takes, by batch size, {each}; batching {why})"


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A verified file, ready to answer.

    Attributes:
        name: What clients call it: the stem of the file's name.
        path: The file.
        digest: SHA-256 of the file, as `sha256sum` prints it.
        predictor: Classifies images; threads may call it at once.
        record: What the file says about itself; see `zoo.exporting.verification.inspect`.
        batching: How many images share a call.
    """

    name: str
    path: Path
    digest: str
    predictor: Predictor
    record: dict[str, Any]
    batching: Batching

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.predictor.classes

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""
        return str(self.record["precision"]["name"])

    @property
    def scores_unknown(self) -> bool:
        """Whether it scores how strange an image is."""
        return threshold_of(self.predictor) is not None

    @property
    def provider(self) -> str:
        """What executes the network."""
        return self.predictor.device

    def takes_the_same_input(self, other: ServedModel) -> bool:
        """Whether both files take the same input tensors."""
        return bool(self.record["inputs"] == other.record["inputs"])


def open_served(
    path: Path,
    *,
    name: str,
    device: str,
    threads: int,
    plugins: Plugins,
    measured: Mapping[str, Batching] = MappingProxyType({}),
    verified: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> ServedModel:
    """Verify a file, open it, run it once, and measure whether batches pay.

    Args:
        path: An exported file.
        name: What clients call it.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        threads: Threads that each call computes with.
        plugins: Loaded plugins.
        measured: What was measured before, by a file's digest, and is not measured again.
        verified: What files record that this server verified before, by their digest. Of the checks they repeat only
            that of the digest and, in the session that serves, that of the golden inputs.

    Raises:
        UsageError: there is no such file, or files of this format cannot be served.
        ZooError: the file fails a check, or changes while it is opened; or the device is not available.
    """
    exporter = find_exporter(path, plugins)
    if exporter.serve is None:
        raise UsageError(
            f"`{exporter.name}` files cannot be served", hint="`zoo export RUN --to onnx` makes one that can"
        )
    before = _digest(path)
    if before in verified and before in measured:
        record, batching = verified[before], measured[before]
    else:
        record, batching = _verify(path, device, threads, measured.get(before))
    predictor: Predictor = load_target(exporter.serve)(path, device, threads, batching.size > 1)
    _check_golden(path, record, predictor)
    if _digest(path) != before:
        raise ZooError(f"`{path}` changed while it was opened", hint="write it under another name, then rename it")
    give_back_memory()  # verification holds the graph several times
    return ServedModel(name=name, path=path, digest=before, predictor=predictor, record=record, batching=batching)


def _verify(path: Path, device: str, threads: int, known: Batching | None) -> tuple[dict[str, Any], Batching]:
    """Verify a file and measure batches, in a process of its own; returns what the file records, and the batching.

    With a `known` batching nothing is measured.

    Verification holds the graph several times, and onnxruntime keeps the memory of the largest batch that it ran.

    Raises:
        ZooError: the file fails a check, or cannot be read.
    """
    with WorkerProcess(f"{__name__}:Verification") as worker:
        try:
            found = worker.ask("verify", path=str(path), device=device, threads=threads, measure=known is None)
        except WorkerFailed as failure:
            raise ZooError(f"`{path}` is not served: {failure.reason}", hint=failure.hint) from failure
    if found["failed"] is not None:
        raise ZooError(
            f"`{path}` is not served, since it fails verification: {found['failed']}",
            hint="export the run again, or copy the file again",
        )
    if known is not None:
        return found["record"], known
    seconds = {int(size): float(each) for size, each in found["seconds"].items()}
    return found["record"], Batching(size=found["batch"], seconds=seconds)


class Verification:
    """Answers the request of `_verify`, in its process."""

    def verify(self, path: str, device: str, threads: int, measure: bool) -> dict[str, Any]:
        """The first check that a file fails, or what it records about itself and how batches pay."""
        from zoo.plugin import Plugins

        file = Path(path)
        exporter = find_exporter(file, Plugins())
        assert exporter.inspect is not None and exporter.serve is not None
        for check in load_target(exporter.verify)(file, device):
            if not check.passed:
                return {"failed": f"{check.name}: {check.detail}"}
        record = load_target(exporter.inspect)(file)
        if not measure:
            return {"failed": None, "record": record}
        batching = _measure_batching(load_target(exporter.serve)(file, device, threads, False))
        return {"failed": None, "record": record, "batch": batching.size, "seconds": batching.seconds}


def _check_golden(path: Path, record: dict[str, Any], predictor: Predictor) -> None:
    """Check that the session that will serve gives the recorded logits of the golden inputs.

    Raises:
        ZooError: it does not.
    """
    golden = Golden.from_json(record["metadata"]["zoo.golden"])
    check = check_golden(golden, predictor.classes, lambda images: ask(predictor, images))
    if not check.passed:
        raise ZooError(f"`{path}` is not served: {check.name}: {check.detail}", hint="`zoo verify FILE` says more")


def _measure_batching(predictor: Predictor) -> Batching:
    """Time batches of one image, and choose the largest that saves at least `GAIN` of an image's time."""
    image = golden_photographs()["small"]
    for size in BATCH_SIZES:
        predictor.logits([image] * size)  # warm up
    rounds: list[dict[int, float]] = []
    begun = time.perf_counter()
    while len(rounds) < ROUNDS or time.perf_counter() - begun < MEASURE_SECONDS:  # by turns: other programs disturb all
        took = {}
        for size in BATCH_SIZES:
            started = time.perf_counter()
            predictor.logits([image] * size)
            took[size] = (time.perf_counter() - started) / size
        rounds.append(took)
    found = {size: min(took[size] for took in rounds) for size in BATCH_SIZES}
    paying = [
        size
        for size in BATCH_SIZES
        if found[size] <= (1 - GAIN) * found[1] and all(took[size] < took[1] for took in rounds)
    ]
    return Batching(size=max(paying, default=1), seconds=found)


def _digest(path: Path) -> str:
    if path.exists() and not path.is_file():  # to open a pipe might never end
        raise ZooError(f"`{path}` is not a file", hint="`zoo export RUN` makes a file that can be served")
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}", hint="check its path and permissions") from error
