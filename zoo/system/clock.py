"""The clock of a run: wall-clock seconds in total, and of each step of the work.

Where a run is resumed, all of them count each session up to the checkpoint from which the next one went on.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter


class Clock:
    """Wall-clock time of a run, counted from when the clock is made.

    Attributes:
        laps: Seconds of each finished step of the work, by its name.
    """

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self.laps: dict[str, float] = {}
        self._before = 0.0  # seconds of earlier sessions

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap as those of the step `name`."""
        self.laps = self.laps_with(name)
        self._last = perf_counter()

    def laps_with(self, name: str) -> dict[str, float]:
        """The laps as they would be if the step `name` ended now."""
        return {**self.laps, name: round(self.laps.get(name, 0.0) + perf_counter() - self._last, 3)}

    def continue_from(self, laps: Mapping[str, float], total: float) -> None:
        """Add the laps and the total of earlier sessions."""
        self._before += total
        for name, seconds in laps.items():
            self.laps[name] = round(self.laps.get(name, 0.0) + seconds, 3)

    def total(self) -> float:
        """Seconds of the run so far, over all its sessions."""
        return round(self._before + perf_counter() - self._started, 3)
