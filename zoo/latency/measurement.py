"""Latency measurement: pairs targets with the runtimes that can execute them, and measures every pair."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from zoo.catalogue import Entry
from zoo.config.arguments import as_list
from zoo.errors import UsageError, ZooError
from zoo.latency.interleaving import ROUNDS, ReportLine, run_interleaved
from zoo.latency.report import LatencyReport, Outcome, Status
from zoo.latency.subject import Subject
from zoo.plugin import Plugins
from zoo.row import check_returned
from zoo.runtime import PHOTOGRAPH, DeviceName, Runtime, Workload
from zoo.system.cuda import cuda_devices
from zoo.system.environment import machine, versions
from zoo.target import load_target

RUN_FILE = "run.json"  # a folder with this file is a run
EXPORT = "model.onnx"  # the file that `zoo export` writes into a run's folder by default


def bench(
    targets: Sequence[Path | str] | Path | str,
    *,
    runtimes: Sequence[str] | str | None = None,
    device: str = "auto",
    batch_sizes: Sequence[int] | int = (1, 8),
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
    """Measure the latency of runs and exported files, on every available runtime or on those named.

    A run is measured on the torch runtimes, and its `model.onnx`, where there is one, as a file. A file is measured on
    the runtimes of its format. Each pair of a target and a runtime is a subject with a worker process of its own. All
    subjects are measured in interleaved rounds. A subject that fails becomes an outcome with its reason; the others are
    measured all the same.

    Args:
        targets: Folders of runs, and exported files.
        runtimes: Names of runtimes. None: all that are available and measured by default.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`. `auto`: CUDA where there is a device and the
            runtime supports it.
        batch_sizes: Images per call.
        threads: Threads that each subject computes with. None: the physical cores that this process may use.
        seconds: Budget of timed calls for each subject and batch size.
        rounds: How often each subject is measured per batch size, at most.
        with_preprocess: Time from photograph to probabilities. False: the network alone.
        allow_fallback: Measure a file even where nodes of its network run on another device.
        callers: Number of concurrent callers; each calls again as soon as its call returns.
        noise_floor: Also measure a second process of the fastest subject. A difference is significant only where it is
            larger than the one between these two processes.
        plugins: Loaded plugins. None: they are loaded.
        on_progress: Called with a line of text before each step.

    Raises:
        UsageError: a target, a runtime, a device or a number is not valid.
        ZooError: CUDA was asked for and this machine has none.
    """
    plugins = Plugins() if plugins is None else plugins
    sizes = _check_numbers(as_list(batch_sizes, int), threads, seconds, rounds, callers)
    _check_device(device)
    named = None if runtimes is None else [plugins.runtimes.find(name) for name in dict.fromkeys(as_list(runtimes))]
    asked = [Path(target).expanduser() for target in as_list(targets)]
    paths = _with_exports(asked)
    threads = usable_cores() if threads is None else threads
    subjects: list[Subject] = []
    missing: list[Outcome] = []
    used: set[str] = set()
    for path in paths:
        kind = kind_of(path, plugins)
        for entry in plugins.runtimes if named is None else named:
            chosen = device_for(entry.value, device)
            if entry.value.accepts != kind:
                continue
            if named is None and (chosen is None or not entry.value.by_default):
                continue
            if chosen is None:
                raise UsageError(
                    f"runtime `{entry.name}` does not run on `{device}`",
                    hint=f"it runs on {' '.join(entry.value.devices)}; without `--device` each runtime takes its own",
                )
            used.update((entry.qualified, str(path)))
            workload = Workload(
                target=path,
                device=chosen,
                threads=threads,
                with_preprocess=with_preprocess,
                allow_fallback=allow_fallback,
            )
            subject = Subject(label=_label(path, paths), entry=entry, workload=workload)
            reason = reason_unavailable(entry.value, chosen)
            if reason is None:
                subjects.append(subject)
            else:
                # a runtime that was named and cannot run has failed; one that is only registered is unavailable
                status: Status = "unavailable" if named is None else "failed"
                missing.append(subject.outcome(status, reason=reason))
    _check_used(asked, named, used, device, plugins)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    result = run_interleaved(
        subjects,
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
        others=result.others,
        callers=callers,
        noise_floor=result.noise_floor,
        versions=versions(),
        outcomes=(*result.outcomes, *missing),
    )


def usable_cores() -> int:
    """Physical cores that this process may use, within its CPU affinity and its container's quota."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # not Linux, or no quota
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
        raise UsageError(f"a budget of `{seconds}` seconds is not a number above 0", hint="pass `--seconds 2`")
    if not sizes:
        raise UsageError("no batch size to measure")
    return tuple(sorted(set(sizes)))  # ascending, so that memory never shrinks from one size to the next


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


def device_for(runtime: Runtime, asked: str) -> str | None:
    """The device that a runtime is measured on; None where it does not support the one asked for."""
    if asked != "auto":
        return asked if DeviceName.parse(asked).kind in runtime.devices else None
    if "cuda" in runtime.devices and (cuda_devices() or "cpu" not in runtime.devices):
        return "cuda"
    return "cpu"


def reason_unavailable(runtime: Runtime, device: str) -> str | None:
    """Why a runtime cannot run on a device here; None where it can."""
    available: Callable[[str], str | None] = load_target(runtime.available)
    try:
        reason = available(device)
        check_returned(reason, str | None, runtime.available, f"runtime `{runtime.name}`")
        return reason
    except ZooError as error:
        return error.message
    except Exception as error:  # code of a plugin; its failure must not stop the other subjects
        return f"{type(error).__name__}: {error}".strip()


def _with_exports(targets: Sequence[Path]) -> list[Path]:
    """The targets, each once; a run is followed by its exported file, where it has one.

    Raises:
        UsageError: there is no target, or one is neither a run nor a file.
    """
    if not targets:
        raise UsageError("nothing to measure", hint="pass a run's folder, an exported file, or both")
    found: dict[Path, Path] = {}
    for target in targets:
        if target.is_dir() and not (target / RUN_FILE).is_file():
            raise UsageError(
                f"`{target}` is not a run: it has no `{RUN_FILE}`", hint="pass the folder that `zoo train` made"
            )
        if not target.exists():
            raise UsageError(f"there is no run or file `{target}`")
        found.setdefault(target.resolve(), target)
        export = target / EXPORT
        if target.is_dir() and export.is_file():
            found.setdefault(export.resolve(), export)
    return list(found.values())


def kind_of(path: Path, plugins: Plugins) -> str:
    """The kind of a target, as in a runtime's `accepts`: `run`, or the name of the exporter that writes such files.

    Raises:
        UsageError: no runtime accepts this kind.
    """
    accepted = {entry.value.accepts for entry in plugins.runtimes}
    if path.is_dir():
        kind = "run"
    else:
        by_suffix = {entry.value.suffix: entry.name for entry in reversed(plugins.exporters.entries)}
        kind = by_suffix.get(path.suffix.lower(), path.suffix.lower().removeprefix("."))
    if kind not in accepted:
        raise UsageError(
            f"no runtime executes `{path}`",
            hint=f"runtimes accept {' '.join(sorted(accepted))}; see `zoo list runtimes`",
        )
    return kind


def _label(path: Path, paths: Sequence[Path]) -> str:
    """The file name of a target; its path where two targets have the same name."""
    name = path.resolve().name
    return str(path) if sum(other.resolve().name == name for other in paths) > 1 else name


def _check_used(
    targets: Sequence[Path], named: Sequence[Entry[Runtime]] | None, used: set[str], device: str, plugins: Plugins
) -> None:
    """Check that every runtime that was named, and every target, is part of a subject.

    Raises:
        UsageError: one is not.
    """
    for entry in named or ():
        if entry.qualified not in used:
            raise UsageError(
                f"runtime `{entry.name}` accepts targets of kind `{entry.value.accepts}`, and none was given",
                hint="pass a run's folder" if entry.value.accepts == "run" else "make a file with `zoo export RUN`",
            )
    for target in targets:
        resolved = {Path(name).resolve() for name in used}
        if not {target.resolve(), (target / EXPORT).resolve()} & resolved:
            if named is None:  # `kind_of` found a runtime that accepts it, so it is the device
                kind = kind_of(target, plugins)
                devices = {
                    one for entry in plugins.runtimes if entry.value.accepts == kind for one in entry.value.devices
                }
                raise UsageError(
                    f"no runtime that executes `{target}` runs on `{device}`",
                    hint=f"pass `--device auto`; they run on {' '.join(sorted(devices))}",
                )
            raise UsageError(f"none of the runtimes asked for accepts `{target}`", hint="see `zoo list runtimes`")
