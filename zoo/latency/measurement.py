"""Latency: which runtimes time what, and the measurement from Python."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from zoo.catalogue import Entry
from zoo.errors import UsageError, ZooError
from zoo.latency.interleaving import ROUNDS, ReportLine, run_interleaved
from zoo.latency.report import LatencyReport, Outcome, Status
from zoo.latency.subject import Subject
from zoo.plugin import Plugins
from zoo.runtime import PHOTOGRAPH, DeviceName, Runtime, Workload
from zoo.system.cuda import cuda_devices
from zoo.system.environment import machine, versions
from zoo.target import load_target

RUN_FILE = "run.json"  # what makes a folder a run
EXPORT = "model.onnx"  # where `zoo export` puts a run's file, unless told otherwise


def bench(
    targets: Sequence[Path],
    *,
    runtimes: Sequence[str] | None = None,
    device: str = "auto",
    batch_sizes: Sequence[int] = (1, 8),
    threads: int | None = None,
    seconds: float = 2.0,
    rounds: int = ROUNDS,
    with_preprocess: bool = False,
    allow_fallback: bool = False,
    callers: int = 1,
    noise_floor: bool = True,
    plugins: Plugins | None = None,
    on_progress: ReportLine = lambda line: None,
) -> LatencyReport:
    """Time runs and exported files on every runtime that is there, or on those named.

    A run's folder brings the torch runtimes, and its `model.onnx` where there is one; a file brings the runtimes of
    its format. A contender that fails is an outcome with its reason, not the end. `seconds` is the budget of timed
    calls per contender and batch size; `threads` (None: the physical cores at hand) are given to each alike. `callers`
    call at once, each when it has its last answer. `noise_floor` times a second process of the fastest, too.

    Raises:
        UsageError: a target, a runtime, a device or a number that cannot be meant.
        ZooError: CUDA was asked for and there is none.
    """
    plugins = Plugins() if plugins is None else plugins
    sizes = _check_numbers(batch_sizes, threads, seconds, rounds, callers)
    _check_device(device)
    named = None if runtimes is None else [plugins.runtimes.find(name) for name in dict.fromkeys(runtimes)]
    paths = _with_exports(targets)
    threads = usable_cores() if threads is None else threads
    contenders: list[Subject] = []
    missing: list[Outcome] = []
    used: set[str] = set()
    for path in paths:
        kind = _kind(path, plugins)
        for entry in plugins.runtimes if named is None else named:
            chosen = _device_for(entry.value, device)
            if entry.value.accepts != kind or (chosen is None and named is None):
                continue
            if chosen is None:
                raise UsageError(
                    f"runtime `{entry.name}` does not run on `{device}`",
                    hint=f"it runs on {' '.join(entry.value.devices)}; leave out `--device` to let each choose",
                )
            used.update((entry.qualified, str(path)))
            workload = Workload(
                target=path,
                device=chosen,
                threads=threads,
                with_preprocess=with_preprocess,
                allow_fallback=allow_fallback,
            )
            contender = Subject(label=_label(path, paths), entry=entry, workload=workload)
            reason = _why_not(entry.value, chosen)
            if reason is None:
                contenders.append(contender)
            else:
                # Nobody asked for what is merely registered; what was asked for and cannot run has failed
                status: Status = "unavailable" if named is None else "failed"
                missing.append(contender.outcome(status, reason=reason))
    _check_used(targets, named, used)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    contest = run_interleaved(
        contenders,
        batch_sizes=sizes,
        seconds=seconds,
        rounds=rounds,
        callers=callers,
        noise_floor=noise_floor,
        on_progress=on_progress,
    )
    return LatencyReport(
        timed=_what_is_timed(with_preprocess),
        with_preprocess=with_preprocess,
        batch_sizes=sizes,
        threads=threads,
        seconds=seconds,
        started=started,
        machine=_describe_machine(),
        others=contest.others,
        callers=callers,
        noise_floor=contest.noise_floor,
        versions=versions(),
        outcomes=(*contest.outcomes, *missing),
    )


def usable_cores() -> int:
    """Physical cores that this process may use: bounded by its affinity and by its container's share."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no Linux, or no such limit
    return max(cores, 1)


def _describe_machine() -> dict[str, Any]:
    return {
        **machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "cuda_devices": list(cuda_devices()),
    }


def _what_is_timed(with_preprocess: bool) -> str:
    if with_preprocess:
        height, width = PHOTOGRAPH
        return f"photographs (uint8, {height} x {width}) in, probabilities out; both in main memory"
    return "the network alone: normalised pixels in, logits out; both in main memory, or in the CUDA device's"


def _check_numbers(
    sizes: Sequence[int], threads: int | None, seconds: float, rounds: int, callers: int
) -> tuple[int, ...]:
    counts = (("threads", threads), ("rounds", rounds), ("callers", callers))
    for what, number in (*(("a batch size", size) for size in sizes), *counts):
        if number is not None and number < 1:
            raise UsageError(f"{what} of `{number}` is less than 1")
    cores = os.cpu_count()
    if threads is not None and cores is not None and threads > cores:
        raise UsageError(
            f"`{threads}` threads are more than this machine's {cores} logical cores",
            hint=f"pass `--threads {usable_cores()}`, or leave it out",
        )
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"`{seconds}` seconds are no budget", hint="pass `--seconds 2`")
    if not sizes:
        raise UsageError("no batch size to measure")
    return tuple(sorted(set(sizes)))  # ascending, so that memory only grows from one to the next


def _check_device(device: str) -> None:
    name = DeviceName.parse(device)
    if name.kind == "cuda":
        count = len(cuda_devices())
        if count == 0:
            raise ZooError(
                f"`--device {device}`: this machine has no CUDA device",
                hint="pass `--device cpu`, or `--device auto` to take what is there",
            )
        if name.index >= count:
            raise ZooError(f"`--device {device}`: there are {count} CUDA devices, counted from 0")


def _device_for(runtime: Runtime, asked: str) -> str | None:
    """The device that a runtime runs on; None if it does not run on the one asked for."""
    if asked != "auto":
        return asked if DeviceName.parse(asked).kind in runtime.devices else None
    if "cuda" in runtime.devices and (cuda_devices() or "cpu" not in runtime.devices):
        return "cuda"
    return "cpu"


def _why_not(runtime: Runtime, device: str) -> str | None:
    available: Callable[[str], str | None] = load_target(runtime.available)
    try:
        return available(device)
    except Exception as error:  # a plugin's own code: its failure is its outcome
        return f"{type(error).__name__}: {error}".strip()


def _with_exports(targets: Sequence[Path]) -> list[Path]:
    """The targets, each once, with a run's export after the run where it has one.

    Raises:
        UsageError: nothing was given, or something that is neither a run nor a file.
    """
    if not targets:
        raise UsageError("nothing to measure", hint="pass a run's folder, an exported file, or both")
    found: dict[Path, Path] = {}
    for target in targets:
        if target.is_dir() and not (target / RUN_FILE).is_file():
            raise UsageError(
                f"`{target}` is no run: it has no `{RUN_FILE}`", hint="pass the folder that `zoo train` made"
            )
        if not target.exists():
            raise UsageError(f"there is no run and no file `{target}`")
        found.setdefault(target.resolve(), target)
        export = target / EXPORT
        if target.is_dir() and export.is_file():
            found.setdefault(export.resolve(), export)
    return list(found.values())


def _kind(path: Path, plugins: Plugins) -> str:
    """What a target is to a runtime's `accepts`: `run`, or the name of the exporter that writes such files.

    Raises:
        UsageError: no runtime takes it.
    """
    accepted = {entry.value.accepts for entry in plugins.runtimes}
    if path.is_dir():
        kind = "run"
    else:
        by_suffix = {entry.value.suffix: entry.name for entry in reversed(plugins.exporters.entries)}
        kind = by_suffix.get(path.suffix, path.suffix.removeprefix("."))
    if kind not in accepted:
        raise UsageError(
            f"no runtime executes `{path}`", hint=f"runtimes take {' '.join(sorted(accepted))}; see `zoo list runtimes`"
        )
    return kind


def _label(path: Path, paths: Sequence[Path]) -> str:
    """A target's name; its path where two have the same name."""
    name = path.resolve().name
    return str(path) if sum(other.resolve().name == name for other in paths) > 1 else name


def _check_used(targets: Sequence[Path], named: Sequence[Entry[Runtime]] | None, used: set[str]) -> None:
    """Every runtime that was named, and every target, takes part somewhere."""
    for entry in named or ():
        if entry.qualified not in used:
            raise UsageError(
                f"runtime `{entry.name}` takes {entry.value.accepts}, and none was given",
                hint="pass a run's folder" if entry.value.accepts == "run" else "make a file with `zoo export RUN`",
            )
    for target in targets:
        resolved = {Path(name).resolve() for name in used}
        if not {target.resolve(), (target / EXPORT).resolve()} & resolved:
            raise UsageError(f"none of the runtimes takes `{target}`", hint="see `zoo list runtimes`")
