"""Progress reports of long calls.

    zoo.train(experiment, progress=zoo.ProgressBar())       # bars in a terminal and in a notebook
    logging.basicConfig(level=logging.INFO)                 # or lines of the logger `zoo`, which need no argument

Library calls print nothing by themselves; the command line shows a `ProgressBar`.
"""

from __future__ import annotations

import inspect
import logging
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LOGGER = logging.getLogger("zoo")
LOGGER.addHandler(logging.NullHandler())  # an application adds a handler, as for any library


class Progress(Protocol):
    """Receives reports; every method returns at once."""

    def note(self, text: str) -> None:
        """Report a decision that was taken, in one line."""

    def warn(self, text: str) -> None:
        """Report something that the user may want to change, in one line."""

    def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None:
        """Report that a task of `total` images, or of another `unit`, begins. It replaces the task before.

        `total` is 0 where it is not known. `later` is the number of units in tasks of the same kind that follow.
        """

    def advance(self, count: int) -> None:
        """Report that `count` more units of the current task are done."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Report that an epoch ended; `record` is its line of the history."""

    def stop(self) -> None:
        """Report that the current task ended."""


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...
    def epoch(self, record: dict[str, Any]) -> None: ...
    def stop(self) -> None: ...


class LogProgress(Silent):
    """Writes notes and epochs to the logger `zoo` at level INFO, and warnings at level WARNING."""

    def note(self, text: str) -> None:
        LOGGER.info("%s", text)

    def warn(self, text: str) -> None:
        LOGGER.warning("%s", text)

    def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None:
        LOGGER.debug("%s: %d %s", task, total, unit)

    def epoch(self, record: dict[str, Any]) -> None:
        LOGGER.info("%s", epoch_line(record))


class _WithoutLater(Silent):
    """Passes reports on to an object that was written before `start` had the argument `later`."""

    def __init__(self, progress: Any) -> None:
        for name in ("note", "warn", "advance", "epoch", "stop"):
            setattr(self, name, getattr(progress, name))
        self._start = progress.start

    def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None:
        self._start(task, total, unit)


class Once(Silent):
    """Passes reports on to another object, each note and each warning once, as where folds share their data."""

    def __init__(self, progress: Progress) -> None:
        for name in ("start", "advance", "epoch", "stop"):
            setattr(self, name, getattr(progress, name))
        self._progress = progress
        self._told: set[tuple[str, str]] = set()

    def note(self, text: str) -> None:
        if self._is_new("note", text):
            self._progress.note(text)

    def warn(self, text: str) -> None:
        if self._is_new("warning", text):
            self._progress.warn(text)

    def _is_new(self, kind: str, text: str) -> bool:
        before = len(self._told)
        self._told.add((kind, text))
        return len(self._told) > before


def with_later(progress: Progress) -> Progress:
    """The object itself, or one that leaves out the argument `later` of `start` where it has none."""
    taken = inspect.signature(progress.start).parameters
    if "later" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return progress
    return _WithoutLater(progress)


def epoch_line(record: dict[str, Any]) -> str:
    """A record of the history as one line of text."""
    stage = "solved   " if "solved" in record else f"epoch {record['epoch']:>3}"
    text = f"{stage} {record['phase']}  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.3f}"
    if "choice_loss" in record:
        text += f"  validation loss {record['choice_loss']:.4f} accuracy {record['choice_accuracy']:.3f}"
    return f"{text}  {record['images_per_second']:.0f} images/s"


# Where no bar can be drawn, a line says every so many seconds how far the task is
SILENCE = 30.0

# What is advanced in the first second of a task was done before, in a session that is resumed or in a cache
AT_ONCE = 1.0


class ProgressBar:
    """Shows bars in a terminal or a notebook, and plain lines elsewhere.

    A notebook shows bars where `ipywidgets` is installed, else a line per epoch. Where there are no bars and a task is
    silent for 30 seconds, a line says how far it is and how long it will take.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, a rich console; by default one on stderr."""
        from rich.console import Console

        self._console = console if console is not None else Console(stderr=True, highlight=False, emoji=False)
        self._bar: Any = None
        self._task: Any = None
        self._name = ""
        self._started = 0.0
        self._unit = ""
        self._total = self._later = self._before = 0
        self._ended: Event | None = None  # of the thread that ends the silence
        self._spoke = 0.0
        self.done = 0  # of the current task

    def _print(self, text: str, **settings: Any) -> None:
        self._spoke = perf_counter()
        self._console.print(text, **settings)

    def note(self, text: str) -> None:
        from rich.markup import escape

        self._print(f"[dim]{escape(text)}[/dim]")

    def warn(self, text: str) -> None:
        from rich.markup import escape

        self._print(f"[bold yellow]warning[/bold yellow]: {escape(text)}")

    def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None:
        self.stop()
        self._started, self.done, self._unit = perf_counter(), 0, unit
        self._name, self._total, self._later, self._before = task, total, later, 0
        if not self._draws_bars():
            self._ended = Event()
            Thread(target=self._end_silence, args=(self._ended,), daemon=True).start()
            return
        from rich.markup import escape  # not at the top: without bars they are not needed
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(escape(task), total=total or None, speed="")
        self._bar.start()

    def _draws_bars(self) -> bool:
        from importlib.util import find_spec

        return self._console.is_terminal or (self._console.is_jupyter and find_spec("ipywidgets") is not None)

    def _end_silence(self, ended: Event) -> None:
        """Print a line whenever nothing was printed for `SILENCE` seconds, until the task ends."""
        begun = perf_counter()
        while not ended.wait(max(SILENCE - (perf_counter() - max(self._spoke, begun)), 0.0)):
            if perf_counter() - max(self._spoke, begun) >= SILENCE:
                self._print(self.standing(), markup=False)

    def standing(self) -> str:
        """How far the current task is, how long it has taken and, where that can be told, the time that is left."""
        took = perf_counter() - self._started
        count = f"{self.done:,} of {self._total:,} {self._unit}, " if self._total else ""
        text = f"{self._name}: {count}{_duration(took)} so far"
        here = self.done - self._before
        if here <= 0 or not self._total:
            return text
        each = took / here
        text += f", about {_duration(each * max(self._total - self.done, 0))} left"
        if self._later:
            text += f", with all that follows {_duration(each * max(self._total - self.done + self._later, 0))}"
        return text

    def advance(self, count: int) -> None:
        self.done += count
        if perf_counter() - self._started < AT_ONCE:
            self._before += count
        if self._bar is not None:
            speed = self.done / max(perf_counter() - self._started, 1e-9)
            words = f"{speed:.0f} images/s" if self._unit == "images" else ""  # trials per second would be a fraction
            self._bar.update(self._task, advance=count, speed=words)

    def epoch(self, record: dict[str, Any]) -> None:
        self.stop()
        self._print(epoch_line(record), markup=False)

    def stop(self) -> None:
        if self._ended is not None:
            self._ended.set()
            self._ended = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    """A duration for a line of text: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
