"""Worker process of a latency measurement: it holds the session of one subject and answers `zoo.latency.interleaving`.

It imports what its runtime needs and nothing else.

    {"do": "load", ...}     -> {"provider": ..., "input": ..., "seconds": ...}
    {"do": "warm", ...}     -> {"first": ..., "median": ..., "calls": ..., "steady": ..., "memory": ...}
    {"do": "measure", ...}  -> {"seconds": [...], "others": ..., "quiet": ...}
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

from zoo.errors import ZooError
from zoo.row import check_returned
from zoo.runtime import SESSION, Input, Session, Workload
from zoo.system.cuda import cuda_memory_used
from zoo.system.other_load import busy_seconds, children_seconds
from zoo.system.process_memory import peak_memory, reset_peak_memory
from zoo.target import load_target

WINDOW = 5  # calls; the median of fewer varies too much to show whether times are steady
STEADY = 0.05  # largest difference between the medians of two windows in a row; steady times of a process vary as much
WARM_SECONDS = 0.2  # a processor takes a moment to raise its clock, even where the first calls are steady
QUIET_SECONDS = 1.0  # thread pools stop spinning within milliseconds; one that still spins after this long never stops
IDLE_CHECK_SECONDS = 0.01


class LatencyWorker:
    """Holds the session, and the calls prepared for each batch size; each public method answers one request."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._calls: dict[int, Callers] = {}  # by batch size
        self._quiet = True  # whether the process came to rest so far
        self._device_memory: Callable[[], int | None] = lambda: None

    def load(self, target: str, workload: dict[str, Any]) -> dict[str, Any]:
        """Open the session; the answer reports its provider, its input and its notes."""
        work = Workload(**{**workload, "target": Path(workload["target"])})
        if work.device.startswith("cuda"):
            before = cuda_memory_used(work.ordinal)
            self._device_memory = lambda: _grown(before, cuda_memory_used(work.ordinal))
        start = time.perf_counter()
        session: Session = load_target(target)(work)
        check_returned(session, SESSION, target, "a runtime")
        self._session = session
        return {
            "provider": session.provider,
            "input": dataclasses.asdict(session.input),
            "notes": list(session.notes),
            "seconds": time.perf_counter() - start,
            "device_memory": self._device_memory(),
            **self._wait_until_idle(),
        }

    def warm(self, batch: int, seconds: float, callers: int = 1) -> dict[str, Any]:
        """Prepare a batch size and call it until times are steady, for about `seconds` at most."""
        assert self._session is not None
        gc.collect()
        measured = reset_peak_memory(children=True)
        start = time.perf_counter()
        ready = make_batch(self._session.input, batch)
        call = self._session.prepare(ready)
        check_returned(call, Callable[..., Any], self._session.prepare, "a runtime")
        call()  # compiles, tunes and allocates; reported on its own and left out of every other figure
        first = time.perf_counter() - start
        calls = self._calls[batch] = Callers([call, *(self._session.prepare(ready) for _ in range(callers - 1))])
        times = calls.time(1)  # at least one, from which the number of calls per slot is computed
        steady, begun = False, time.perf_counter()
        while not steady and (waited := time.perf_counter() - begun) < seconds:
            times.extend(calls.time(1))
            steady = waited >= min(WARM_SECONDS, seconds / 2) and is_steady(times)
        return {
            "first": first,
            "median": statistics.median(times[-2 * WINDOW :]),
            "calls": len(times) + 1,
            "steady": steady,
            "memory": peak_memory(children=True),
            "memory_exact": measured,
            "device_memory": self._device_memory(),
            "notes": list(self._session.notes),
            **self._wait_until_idle(),
        }

    def measure(self, batch: int, calls: int, lead_in: int) -> dict[str, Any]:
        """Time `calls` calls of each caller, after `lead_in` untimed ones that refill caches and wake threads."""
        callers = self._calls[batch]
        gc.collect()
        gc.disable()
        wall, busy, own = time.perf_counter(), busy_seconds(), time.process_time() + children_seconds()
        try:
            if lead_in:
                callers.time(lead_in)
            began = time.perf_counter()
            times = callers.time(calls)
            timed = time.perf_counter() - began
        finally:
            gc.enable()
        others = max(busy_seconds() - busy - (time.process_time() + children_seconds() - own), 0.0)
        wall = time.perf_counter() - wall
        return {
            "seconds": times,
            "timed": timed,
            "wall": wall,
            "others": others,
            "device_memory": self._device_memory(),
            **self._wait_until_idle(),
        }

    def _wait_until_idle(self) -> dict[str, Any]:
        """Wait until the process is idle, so that none of its threads spins while the next subject is measured."""
        # A process that did not come to rest once is not waited for again: its outcome has a note already
        deadline = time.perf_counter() + (QUIET_SECONDS if self._quiet else IDLE_CHECK_SECONDS)
        while time.perf_counter() < deadline:
            wall, busy = time.perf_counter(), time.process_time()
            time.sleep(IDLE_CHECK_SECONDS)
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
    """Calls that run at once, each in a thread that repeats it; a single call runs in the main thread."""

    def __init__(self, calls: list[Callable[[], object]]) -> None:
        self._calls = calls
        # kept for the life of the process: new threads would start with cold caches
        self._pool = ThreadPoolExecutor(len(calls)) if len(calls) > 1 else None

    def time(self, count: int) -> list[float]:
        """Seconds of each of `count` calls by every caller."""
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
    """A batch of random data, the same for every subject: normally distributed floats, or grey levels.

    Raises:
        ZooError: the file accepts another batch size only.
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
