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
from zoo.exporting.golden_inputs import golden_photographs
from zoo.inference.opening import find_exporter
from zoo.predictor import Predictor
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
) -> ServedModel:
    """Verify a file, open it, run it once, and measure whether batches pay.

    Args:
        path: An exported file.
        name: What clients call it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads that each call computes with.
        plugins: Loaded plugins.
        measured: What was measured before, by a file's digest, and is not measured again.

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
    for check in load_target(exporter.verify)(path, device):
        if not check.passed:
            raise ZooError(
                f"`{path}` is not served, since it fails verification: {check.name}: {check.detail}",
                hint="export the run again, or copy the file again",
            )
    opened = load_target(exporter.serve)
    # Measured on a session of its own, since a session keeps the memory of its largest batch
    batching = measured.get(before) or _measure_batching(opened(path, device, threads, False))
    predictor: Predictor = opened(path, device, threads, batching.size > 1)
    predictor.logits(list(golden_photographs().values()))  # as it will run; sizes differ
    assert exporter.inspect is not None
    record = load_target(exporter.inspect)(path)
    if _digest(path) != before:
        raise ZooError(f"`{path}` changed while it was opened", hint="write it under another name, then rename it")
    give_back_memory()  # verification holds the graph several times
    return ServedModel(name=name, path=path, digest=before, predictor=predictor, record=record, batching=batching)


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
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}", hint="check its path and permissions") from error
