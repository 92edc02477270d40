"""Load watch: training says when other programs keep the processors busy, since it then takes several times as long."""

from __future__ import annotations

from zoo.progress import Progress, Silent
from zoo.system.other_load import MOST_OTHERS, OtherLoad, kept_busy
from zoo.system.processors import usable_cpus

EARLY = 10.0  # seconds after which a first warning is due; shorter loads pass
SHORTEST = 5.0  # seconds of a run below which the load says nothing


class LoadWatch(Silent):
    """Passes reports on to another progress object, and warns once where other programs keep the processors busy."""

    def __init__(self, progress: Progress, threads: int, *, elsewhere: bool) -> None:
        """Watch from now on; `threads` and `elsewhere` as in `slack`."""
        for name in ("note", "warn", "start", "epoch", "stop"):
            setattr(self, name, getattr(progress, name))
        self._progress = progress
        self._load = OtherLoad()
        self._next = EARLY
        self._warned = False
        self._slack = slack(threads, elsewhere=elsewhere)

    def advance(self, count: int) -> None:
        self._progress.advance(count)
        if not self._warned and self._load.seconds() >= self._next:
            self._next = 2 * self._load.seconds()
            self._look()

    def finish(self) -> float:
        """Warn if it is due and was not said yet; returns how many processors others kept busy, on average."""
        if not self._warned and self._load.seconds() >= SHORTEST:
            self._look()
        return round(self._load.average(), 2)

    def _look(self) -> None:
        others = self._load.average()
        if others > self._slack:
            self._warned = True
            self._progress.warn(f"{kept_busy(others)} so far; on an idle machine training takes less time")


def slack(threads: int, *, elsewhere: bool) -> float:
    """Processors that others may keep busy before training is slower.

    On the CPU every thread that shares a processor delays the others, which wait for it. With an accelerator only the
    decoding of images needs processors.

    Args:
        threads: threads that compute.
        elsewhere: whether the network is on another device than the CPU.
    """
    cores = usable_cpus()
    return cores / 2 if elsewhere else max(cores - threads, 0) + MOST_OTHERS
