"""Spinning: how long the threads that compute wait for one another before they sleep.

torch's threads (GNU OpenMP) wait for the next layer in a loop, for milliseconds. On an idle machine that is fastest,
since a thread that sleeps takes long to wake. Where other programs compute too, each waiting thread keeps a processor
from the one it waits for: two trainings side by side, on two cores, took 3.5 times as long as one alone. So this
process spins while it has the machine to itself, and sleeps while it has not: 1.8 times, and alone no slower.

GNU OpenMP reads `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` once, but spins briefly whenever a process has more OpenMP
threads than processors (`GOMP_SPINCOUNT` in the manual of libgomp). So while the machine is busy, a few more threads
are kept, which do nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from pathlib import Path

import torch

from zoo.system.other_load import busy_seconds
from zoo.system.processors import usable_cpus

INTERVAL = 0.5  # seconds between looks at the load
FROM, UNTIL = 0.3, 0.15  # processors that others keep busy: from where threads sleep, and until where they still do

_started = False


def spin_only_while_alone() -> None:
    """Watch the load in a thread of this process from now on; calling it again has no effect.

    Does nothing where the user has chosen how threads wait, where only one thread computes, and where torch does not
    use GNU OpenMP.
    """
    global _started
    threads = torch.get_num_threads()
    if _started or threads < 2 or os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} or not _has_gnu_openmp():
        return
    _started = True
    with contextlib.suppress(RuntimeError):  # no thread can be started; training does not need this one
        threading.Thread(target=_watch, args=(threads,), name="spinning", daemon=True).start()


def _has_gnu_openmp() -> bool:
    """Whether GNU's OpenMP is loaded (Linux), by the files that are mapped into this process."""
    try:
        return "/libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


class ShortSpins:
    """Threads of this process spin briefly from `start` to `stop`."""

    def __init__(self, threads: int, processors: int) -> None:
        """Prepare for `threads` that compute at once, with `processors` that the process may run on."""
        self._teams = max(math.ceil((processors - threads + 1) / (threads - 1)), 1)  # so that all are more than those
        self._end: threading.Event | None = None

    @property
    def started(self) -> bool:
        return self._end is not None

    def start(self) -> None:
        self._end = end = threading.Event()
        with contextlib.suppress(RuntimeError):  # no more threads can be started
            for _ in range(self._teams):
                threading.Thread(target=_keep_team, args=(end,), name="OpenMP team", daemon=True).start()

    def stop(self) -> None:
        if self._end is not None:
            self._end.set()
            self._end = None


def _keep_team(end: threading.Event) -> None:
    """Have OpenMP start a team of threads for this one; they end with it."""
    torch.zeros(1_000_000).add_(1)  # large enough to be divided among threads
    end.wait()


def _watch(threads: int) -> None:
    processors = usable_cpus()
    spins = ShortSpins(threads, processors)
    spare = max(processors - threads, 0)
    before = _measure()
    while True:
        time.sleep(INTERVAL)
        now = _measure()
        others = (now[1] - before[1] - (now[2] - before[2])) / (now[0] - before[0])
        before = now
        if not spins.started and others > spare + FROM:
            spins.start()
        elif spins.started and others < spare + UNTIL:
            spins.stop()


def _measure() -> tuple[float, float, float]:
    """The time, the seconds that all processors computed, and those that this process did without its children."""
    own = os.times()
    return time.perf_counter(), busy_seconds(), own.user + own.system
