"""A server against the bare session: both answer the same photographs by turns in one run."""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.errors import UsageError, ZooError
from zoo.inference.opening import find_exporter
from zoo.latency.interleaving import ReportLine
from zoo.latency.load_generator import REJECTED_PAUSE, Address
from zoo.latency.report import CONFIDENCE, RESAMPLES, SCHEMA, Estimate, estimate, noise_floor_between
from zoo.plugin import Plugins
from zoo.system.environment import machine, versions
from zoo.system.processors import usable_cpus
from zoo.system.worker_process import WorkerFailed, WorkerProcess

CLIENT = "zoo.latency.load_generator:LoadGenerator"
BARE = "zoo.latency.bare_worker:BareWorker"
ROUNDS = 10
MAX_CALLS = 2000  # in a slot
MOST_PHOTOGRAPHS = 64  # so that comparing the labels takes seconds
SLOWEST = 20.0  # a slot that takes so many times as long as was expected fails
PATIENCE = 30.0  # seconds more
P99_CALLS = 100
SIZES = ((375, 500), (500, 375))  # height and width of the generated photographs

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Side:
    """Figures of the server, or of the bare session. Times are seconds.

    Attributes:
        p50: Of the time from a request to its answer, over answered requests.
        p90: Likewise.
        p99: Likewise.
        images_per_second: All callers together.
    """

    p50: Estimate
    p90: Estimate
    p99: Estimate
    images_per_second: Estimate


@dataclass(frozen=True, kw_only=True)
class ServedReport:
    """A comparison of a server with the bare session.

    Attributes:
        file: The file that both run.
        url: The server's address.
        model: What the server calls the file.
        digest: SHA-256 of the file, of which the server named the same.
        provider: What executes the bare session.
        callers: Connections that call at once; each calls again as soon as it has its answer.
        workers: Threads of the server that classify. None: it does not tell.
        bare_threads: Threads that call the bare session at once: as many as the server has, or as there are callers.
        threads: Threads that each call of the bare session computes with.
        photographs: Number of distinct photographs.
        agreeing: Photographs whose label both gave.
        rounds: Slots of each side; in each it answers all its calls.
        calls: Answered requests of each side.
        server: Figures of the server.
        bare: Figures of the bare session.
        share: The server's rate as a share of the bare session's, paired by round.
        p50_ratio: The server's p50 as a multiple of the bare session's. None where callers wait for one another, since
            there are more of them than workers.
        noise_floor: The share by which two processes of the bare session differed, of `rate` and of `p50`. Empty where
            it was not measured.
        rejected: Requests that were answered with 503.
        rejected_share: Share of all requests.
        rejected_p99: 99th percentile of the seconds until a 503. None: there were none.
        client_seconds: Processor seconds of the load generator for each request.
        client_processors: Processors that it kept busy on average. A server on the same machine lacks them.
        same_machine: Whether the server's address is of this machine.
        cores: Processors that this process may use.
        others: Processors that other processes kept busy while the bare session ran, on average.
        started: When it began: ISO 8601, UTC.
        machine: See `zoo.system.environment.machine`.
        versions: Of the libraries.
        notes: What limits the figures.
    """

    file: str
    url: str
    model: str
    digest: str
    provider: str
    callers: int
    workers: int | None
    bare_threads: int
    threads: int
    photographs: int
    agreeing: int
    rounds: int
    calls: int
    server: Side
    bare: Side
    share: Estimate
    p50_ratio: Estimate | None
    noise_floor: dict[str, float]
    rejected: int
    rejected_share: float
    rejected_p99: float | None
    client_seconds: float
    client_processors: float
    same_machine: bool
    cores: int
    others: float
    started: str
    machine: dict[str, Any]
    versions: dict[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values: times in seconds."""
        return {"schema": SCHEMA, "confidence": CONFIDENCE, "rejected_pause": REJECTED_PAUSE, **asdict(self)}


@dataclass
class _Taken:
    """What one side took, a row for each slot."""

    seconds: list[list[float]] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)
    processor: float = 0.0
    others: float = 0.0
    rejected: list[float] = field(default_factory=list)

    def add(self, answer: dict[str, Any]) -> None:
        self.seconds.append(answer["seconds"])
        self.timed.append(answer["timed"])
        self.processor += answer["processor"]
        self.others += answer.get("others", 0.0)
        self.rejected += answer.get("rejected", [])


def bench_served(
    file: Path | str,
    url: str,
    photographs: Sequence[Path | str] = (),
    *,
    callers: int = 1,
    seconds: float = 2.0,
    rounds: int = ROUNDS,
    threads: int = 1,
    device: str = "auto",
    token: str | None = None,
    noise_floor: bool = True,
    plugins: Plugins | None = None,
    on_progress: ReportLine = lambda line: None,
) -> ServedReport:
    """Measure a running `zoo serve` against the session of the same file: decoding and network in plain threads.

    Both are measured once in each round, in random order, and with them a second process of the bare session, which
    gives the noise floor. Neither runs while another is measured.

    Args:
        file: The file that is served.
        url: The server's address.
        photographs: Encoded images; at most 64 are taken, evenly. None: two generated ones.
        callers: Connections that call at once.
        seconds: Budget of each side.
        rounds: Slots of each side.
        threads: Threads that each call of the bare session computes with; `zoo serve --latency` takes all cores.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`, for the bare session.
        token: What the server wants to be told.
        noise_floor: Whether to measure the noise floor too.
        plugins: Loaded plugins. None: they are loaded.
        on_progress: Called with a line of text before each step.

    Raises:
        UsageError: the address is none, or files of this format cannot be served.
        ZooError: the server cannot be reached, serves another file, gives other labels, or stops answering.
    """
    path, address = Path(file), Address(url)
    exporter = find_exporter(path, plugins or Plugins())
    if exporter.serve is None:
        raise UsageError(f"`{exporter.name}` files cannot be served", hint="name the `.onnx` file that is served")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with contextlib.ExitStack() as stack:
        files = _chosen(photographs, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        client = stack.enter_context(WorkerProcess(CLIENT))
        on_progress("asking the server")
        told = _ask(client, "open", url=url, files=files, name=path.stem, token=token)
        if told["digest"] != digest:
            raise ZooError(
                f"the server runs another file: its `{told['model']}` has SHA-256 {str(told['digest'])[:16]}, and "
                f"`{path}` has {digest[:16]}",
                hint="name the file that is served",
            )

        def bare_process() -> tuple[WorkerProcess, str]:
            worker = stack.enter_context(WorkerProcess(BARE, threads=threads))
            answer = _ask(worker, "load", file=str(path), device=device, threads=threads, files=files)
            return worker, str(answer["provider"])

        on_progress("loading the bare session")
        bare, provider = bare_process()
        on_progress("comparing labels")
        ours, theirs = (_ask(worker, "labels")["labels"] for worker in (bare, client))
        agreeing = sum(one == other for one, other in zip(ours, theirs))
        if agreeing < len(ours):
            raise ZooError(
                f"the server gives another label than the file for {len(ours) - agreeing} of {len(ours)} photographs",
                hint="use the same version of zoo, Pillow and onnxruntime on both sides",
            )
        workers = told["workers"]
        bare_threads = min(callers, workers or usable_cpus())
        sides = {"server": client, "bare": bare}
        if noise_floor:
            on_progress("loading the bare session again, for the noise floor")
            sides["twin"] = bare_process()[0]
        started = datetime.now(UTC)
        taken = _rounds(sides, callers, bare_threads, seconds, rounds, on_progress)
    server, alone = taken["server"], taken["bare"]
    calls = sum(map(len, server.seconds))
    rejected = len(server.rejected)
    figures = {name: _side(one, alone) for name, one in taken.items()}
    notes = []
    if calls < P99_CALLS:
        notes.append(f"p99 rests on {calls} calls and is little more than the slowest of them")
    if not address.is_here:
        notes.append("the server's address is not of this machine: the share also compares the machines")
    if workers is None:
        notes.append("the server does not tell its number of workers, so the bare session had one thread for each core")
    return ServedReport(
        file=str(path),
        url=url,
        model=told["model"],
        digest=digest,
        provider=provider,
        callers=callers,
        workers=workers,
        bare_threads=bare_threads,
        threads=threads,
        photographs=len(files),
        agreeing=agreeing,
        rounds=len(server.seconds),
        calls=calls,
        server=figures["server"][0],
        bare=figures["bare"][0],
        share=rate_share(np.asarray(server.timed), np.asarray(alone.timed)),
        p50_ratio=figures["server"][1] if callers <= bare_threads else None,
        noise_floor=_floor(alone, taken["twin"]) if noise_floor else {},
        rejected=rejected,
        rejected_share=rejected / (rejected + calls),
        rejected_p99=float(np.quantile(server.rejected, 0.99)) if rejected else None,
        client_seconds=server.processor / (rejected + calls),
        client_processors=server.processor / sum(server.timed),
        same_machine=address.is_here,
        cores=usable_cpus(),
        others=alone.others / sum(alone.timed),
        started=started.isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(),
        notes=tuple(notes),
    )


def rate_share(server: Seconds, bare: Seconds) -> Estimate:
    """The server's rate as a share of the bare session's, with a bootstrap interval over rounds.

    Args:
        server: Seconds of its slots `(rounds,)`.
        bare: Those of the bare session, which answered as many calls in each.
    """
    draws = np.random.default_rng(0).integers(0, len(server), (RESAMPLES, len(server)))
    resampled = bare[draws].mean(axis=1) / server[draws].mean(axis=1)
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(bare.mean() / server.mean()), float(low), float(high))


def _rounds(
    sides: dict[str, WorkerProcess],
    callers: int,
    bare_threads: int,
    seconds: float,
    rounds: int,
    on_progress: ReportLine,
) -> dict[str, _Taken]:
    """Measure each side once in a round; the same photographs for all of them."""

    def run(name: str, count: int, start: int, expected: float) -> dict[str, Any]:
        if name == "server":
            limit = SLOWEST * expected + PATIENCE
            return _ask(sides[name], "run", callers=callers, count=count, start=start, limit=limit)
        return _ask(sides[name], "run", callers=bare_threads, count=count, start=start)

    on_progress("warming up")
    count = 2 * callers
    each = max(run(name, count, 0, 10.0)["timed"] for name in sides) / count
    count = min(max(math.ceil(seconds / rounds / each), count), max(MAX_CALLS, count))
    taken, order = {name: _Taken() for name in sides}, random.Random(0)
    names = list(sides)
    for number in range(rounds):
        on_progress(f"round {number + 1} of {rounds}")
        order.shuffle(names)
        for name in names:
            taken[name].add(run(name, count, number * count, count * each))
    return taken


def _side(one: _Taken, bare: _Taken) -> tuple[Side, Estimate]:
    """A side's figures, and its p50 as a multiple of the bare session's."""
    found = estimate(np.asarray(one.seconds), np.asarray(bare.seconds), np.asarray(one.timed), 1)
    side = Side(p50=found.p50, p90=found.p90, p99=found.p99, images_per_second=found.images_per_second)
    return side, found.ratio


def _floor(bare: _Taken, twin: _Taken) -> dict[str, float]:
    rate = math.expm1(abs(math.log(sum(bare.timed) / sum(twin.timed))))
    return {"rate": rate, "p50": noise_floor_between(np.asarray(bare.seconds), np.asarray(twin.seconds))}


def _chosen(photographs: Sequence[Path | str], folder: Path) -> list[str]:
    """The files to send: the given ones, or two generated JPEGs."""
    if photographs:
        step = max(1, math.ceil(len(photographs) / MOST_PHOTOGRAPHS))
        return [str(path) for path in photographs[::step]]
    found = []
    for number, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 100 * np.sin((x * (channel + 1) + y * (2 - channel)) / 40) for channel in range(3)]
        file = folder / f"generated{number}.jpg"
        Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).save(file, quality=90)
        found.append(str(file))
    return found


def _ask(worker: WorkerProcess, do: str, **request: Any) -> dict[str, Any]:
    """A worker's answer.

    Raises:
        ZooError: the worker failed.
    """
    try:
        return worker.ask(do, **request)
    except WorkerFailed as failure:
        raise (failure.kind or ZooError)(failure.reason, hint=failure.hint) from failure
