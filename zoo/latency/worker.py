"""The worker's side of a latency measurement: one session, told what to do by `zoo.system.worker_process`.

The process imports what its runtime needs and no more.

    {"do": "load", ...}     -> {"provider": ..., "input": ..., "seconds": ...}
    {"do": "warm", ...}     -> {"first": ..., "median": ..., "calls": ..., "steady": ..., "memory": ...}
    {"do": "turn", ...}     -> {"seconds": [...], "others": ..., "quiet": ...}
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from zoo.errors import ZooError
from zoo.runtime import Input, Session, Workload
from zoo.system.cuda import cuda_memory_used
from zoo.target import load_target

WINDOW = 5  # calls; the median of fewer jumps too much to say that it has settled
STEADY = 0.05  # two windows in a row whose medians differ by less are steady; figures of one process vary as much
WARM_SECONDS = 0.2  # a processor takes a moment to raise its clock, however steady the first calls look
QUIET_SECONDS = 1.0  # thread pools stop spinning within milliseconds; one that has not by then will not
GLANCE_SECONDS = 0.01


class LatencyWorker:
    """The session, and the calls prepared for each batch size."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._calls: dict[int, Callers] = {}  # by batch size
        self._quiet = True
        self._device_memory: Callable[[], int | None] = lambda: None

    def load(self, target: str, workload: dict[str, Any]) -> dict[str, Any]:
        """Open the session and say what it really is."""
        work = Workload(**{**workload, "target": Path(workload["target"])})
        if work.device.startswith("cuda"):
            before = cuda_memory_used(work.ordinal)
            self._device_memory = lambda: _grown(before, cuda_memory_used(work.ordinal))
        start = time.perf_counter()
        session: Session = load_target(target)(work)
        self._session = session
        return {
            "provider": session.provider,
            "input": dataclasses.asdict(session.input),
            "notes": list(session.notes),
            "seconds": time.perf_counter() - start,
            "device_memory": self._device_memory(),
            **self._settle(),
        }

    def warm(self, batch: int, seconds: float, callers: int = 1) -> dict[str, Any]:
        """Prepare a batch size and call it until its time is steady, for about `seconds` at most."""
        assert self._session is not None
        gc.collect()
        measured = reset_peak_memory()
        start = time.perf_counter()
        ready = make_batch(self._session.input, batch)
        call = self._session.prepare(ready)
        call()  # compiles, tunes and allocates: told apart, never part of a figure
        first = time.perf_counter() - start
        calls = self._calls[batch] = Callers([call, *(self._session.prepare(ready) for _ in range(callers - 1))])
        times = calls.time(1)  # at least one, so that there is a time to plan with
        steady, begun = False, time.perf_counter()
        while not steady and (waited := time.perf_counter() - begun) < seconds:
            times.extend(calls.time(1))
            steady = waited >= min(WARM_SECONDS, seconds / 2) and is_steady(times)
        return {
            "first": first,
            "median": statistics.median(times[-2 * WINDOW :]),
            "calls": len(times) + 1,
            "steady": steady,
            "memory": peak_memory(),
            "memory_exact": measured,
            "device_memory": self._device_memory(),
            "notes": list(self._session.notes),
            **self._settle(),
        }

    def turn(self, batch: int, calls: int, lead_in: int) -> dict[str, Any]:
        """Time `calls` calls of each caller, after `lead_in` untimed ones that fetch caches and threads back."""
        callers = self._calls[batch]
        gc.collect()
        gc.disable()
        wall, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
        try:
            if lead_in:
                callers.time(lead_in)
            began = time.perf_counter()
            times = callers.time(calls)
            timed = time.perf_counter() - began
        finally:
            gc.enable()
        others = max(busy_seconds() - busy - (time.process_time() - own), 0.0)
        wall = time.perf_counter() - wall
        return {
            "seconds": times,
            "timed": timed,
            "wall": wall,
            "others": others,
            "device_memory": self._device_memory(),
            **self._settle(),
        }

    def _settle(self) -> dict[str, Any]:
        """Wait until the process stands still, so that no thread of it spins in the next contender's turn."""
        # One that never rests is not waited for again: its note is written
        deadline = time.perf_counter() + (QUIET_SECONDS if self._quiet else GLANCE_SECONDS)
        while time.perf_counter() < deadline:
            wall, busy = time.perf_counter(), time.process_time()
            time.sleep(GLANCE_SECONDS)
            if time.process_time() - busy < 0.1 * (time.perf_counter() - wall):
                return {"quiet": True}
        self._quiet = False
        return {"quiet": False}


def _grown(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(now - before, 0)


def time_calls(call: Callable[[], object], count: int) -> list[float]:
    """Seconds that each of `count` calls takes."""
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e9)
    return times


class Callers:
    """Calls that are made at once, each of them again when it has ended; a single one in the main thread."""

    def __init__(self, calls: list[Callable[[], object]]) -> None:
        self._calls = calls
        # for as long as the process lives: threads that begin anew begin cold
        self._pool = ThreadPoolExecutor(len(calls)) if len(calls) > 1 else None

    def time(self, count: int) -> list[float]:
        """Seconds of `count` calls of each."""
        if self._pool is None:
            return time_calls(self._calls[0], count)
        begin = threading.Barrier(len(self._calls))

        def together(call: Callable[[], object]) -> list[float]:
            begin.wait()
            return time_calls(call, count)

        return [seconds for times in self._pool.map(together, self._calls) for seconds in times]


def is_steady(times: list[float]) -> bool:
    """Whether the last two windows of calls have the same median, within `STEADY`."""
    if len(times) < 2 * WINDOW:
        return False
    last, before = statistics.median(times[-WINDOW:]), statistics.median(times[-2 * WINDOW : -WINDOW])
    return abs(last - before) <= STEADY * min(last, before)


def make_batch(wanted: Input, batch: int) -> npt.NDArray[Any]:
    """A batch of made-up data, the same for every contender: normal floats, or grey levels.

    Raises:
        ZooError: the file has a fixed batch size, and it is another one.
    """
    if wanted.fixed_batch is not None and wanted.fixed_batch != batch:
        raise ZooError(f"the file accepts batches of {wanted.fixed_batch} only, not of {batch}")
    random = np.random.default_rng(0)
    shape = (batch, *wanted.shape)
    if wanted.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    if wanted.dtype.startswith("float"):
        return random.standard_normal(shape, dtype=np.float32).astype(wanted.dtype)
    return np.zeros(shape, wanted.dtype)


def busy_seconds() -> float:
    """Seconds that all processors together have been computing for any process, or were taken by the host."""
    times = psutil.cpu_times()._asdict()  # Linux counts guests' time in `user` too
    return float(sum(value for name, value in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


def reset_peak_memory() -> bool:
    """Start the system's record of this process's largest memory anew; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    except OSError:
        return False


def peak_memory() -> int | None:
    """The largest resident memory of this process in bytes, since the last reset where there is one."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    usage = psutil.Process().memory_info()
    return int(getattr(usage, "peak_wset", usage.rss))
