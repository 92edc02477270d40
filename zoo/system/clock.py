"""The clock of a run: wall-clock seconds in total, and of each step of the work."""

from __future__ import annotations

from time import perf_counter


class Clock:
    """Wall-clock time of a run, counted from when the clock is made.

    Attributes:
        laps: Seconds of each finished step of the work, by its name.
        before: Seconds of earlier sessions, where a run is resumed.
    """

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self.laps: dict[str, float] = {}
        self.before = 0.0

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap as those of the step `name`."""
        moment = perf_counter()
        self.laps[name] = round(moment - self._last, 3)
        self._last = moment

    def total(self) -> float:
        """Seconds of the run so far, over all its sessions."""
        return round(self.before + perf_counter() - self._started, 3)
