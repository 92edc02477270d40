"""Progress: what a long call tells while it runs. The library is silent; the command line shows it."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """Receives what happens; every method returns at once."""

    def note(self, text: str) -> None:
        """Something was decided, in one line."""

    def warn(self, text: str) -> None:
        """Something that the user may want to mend, in one line."""

    def start(self, task: str, total: int, unit: str = "images") -> None:
        """A task of `total` images, or of another unit, begins; it replaces the task before."""

    def advance(self, count: int) -> None:
        """`count` more of the current task are done."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch ended; `record` is its line of the history."""

    def stop(self) -> None:
        """The current task ended."""


class Silent:
    """Tells nothing."""

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def start(self, task: str, total: int, unit: str = "images") -> None: ...
    def advance(self, count: int) -> None: ...
    def epoch(self, record: dict[str, Any]) -> None: ...
    def stop(self) -> None: ...
