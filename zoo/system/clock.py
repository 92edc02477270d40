"""Clock: wall-clock seconds of a run, in total and by step of the work."""

from __future__ import annotations

from time import perf_counter


class Clock:
    """Seconds since a run began. `laps` holds the seconds of each finished step by its name."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self.laps: dict[str, float] = {}
        self.before = 0.0  # seconds of earlier sessions of a resumed run

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap under `name`."""
        moment = perf_counter()
        self.laps[name] = round(moment - self._last, 3)
        self._last = moment

    def total(self) -> float:
        """Seconds since the run began, over all its sessions."""
        return round(self.before + perf_counter() - self._started, 3)
