"""Load of other programs: how many processors they keep busy while this process works.

On a busy machine threads that wait for one another wait for other programs too, so that work takes several times as
long, and latencies vary.
"""

from __future__ import annotations

import os
import time

import psutil

from zoo.system.processors import SESSION, usable_cpus

BUSY = 0.2  # processors; an idle system keeps fewer busy, and more disturb threads that wait for one another
MOST_OTHERS = 0.5  # processors; training, which takes longer than a latency, is delayed noticeably by more


def busy_seconds() -> float:
    """Seconds that the processors that this process may run on have computed for any process, or lost to the host."""
    each = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        if max(allowed) < len(each):  # else some are offline, and positions are not numbers
            each = [each[number] for number in sorted(allowed)]
    idle = ("idle", "iowait", "guest", "guest_nice")  # on Linux, `user` includes the time of guests
    return float(sum(value for one in each for name, value in one._asdict().items() if name not in idle))


def own_seconds() -> float:
    """Processor seconds of the process that began this session and of all that it started, this one among them."""
    try:
        first = psutil.Process(int(os.environ.get(SESSION, os.getpid())))
        spent = _spent(first)
    except (psutil.Error, ValueError):  # it has ended
        first = psutil.Process()
        spent = _spent(first)
    for child in first.children(recursive=True):
        try:
            spent += _spent(child)
        except psutil.Error:
            continue  # it has ended, and counts among the ended ones now
    return spent


def _spent(process: psutil.Process) -> float:
    its = process.cpu_times()
    return float(its.user + its.system + its.children_user + its.children_system)


def children_seconds() -> float:
    """Processor seconds of the processes that this one started, as long as they run."""
    spent = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            spent += _spent(child)
        except psutil.Error:
            continue
    return spent


class OtherLoad:
    """Measures, from when it is made, how many processors other programs keep busy.

    Processes that this one started count as its own, and the trials that a study carries out at the same time.
    """

    def __init__(self) -> None:
        self._since, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._since

    def average(self) -> float:
        """Processors that other programs kept busy, on average since it was made."""
        others = busy_seconds() - self._busy - (own_seconds() - self._own)
        return max(others, 0.0) / max(self.seconds(), 1e-9)


def wait_until_quiet(seconds: float) -> bool:
    """Wait until other programs keep fewer than `BUSY` processors busy for a second, for `seconds` at most."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        load = OtherLoad()
        time.sleep(1.0)
        if load.average() <= BUSY:
            return True
    return False


def kept_busy(others: float, *, here: bool = True) -> str:
    """How busy other programs kept the machine, `here` this one, as part of a sentence."""
    return f"other programs kept {others:.1f}{f' of {usable_cpus()}' * here} cores busy"
