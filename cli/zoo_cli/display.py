"""Display: progress bars on a terminal, plain lines elsewhere, both on stderr."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Prints the progress of a long call; implements `zoo.progress.Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = 0.0
        self._unit = ""
        self.done = 0

    def note(self, text: str) -> None:
        self._console.print(f"[dim]{escape(text)}[/dim]")

    def warn(self, text: str) -> None:
        self._console.print(f"[bold yellow]warning[/bold yellow]: {escape(text)}")

    def start(self, task: str, total: int, unit: str = "images") -> None:
        self.stop()
        self._started, self.done, self._unit = perf_counter(), 0, unit
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(escape(task), total=total, speed="")
        self._bar.start()

    def advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            speed = self.done / max(perf_counter() - self._started, 1e-9)
            words = (
                f"{speed:.0f} images/s" if self._unit == "images" else ""
            )  # a speed in trials per second says nothing
            self._bar.update(self._task, advance=count, speed=words)

    def epoch(self, record: dict[str, Any]) -> None:
        self.stop()
        choice = ""
        if "choice_loss" in record:
            choice = f"  validation loss {record['choice_loss']:.4f} accuracy {record['choice_accuracy']:.3f}"
        stage = "solved   " if "solved" in record else f"epoch {record['epoch']:>3}"
        self._console.print(
            f"{stage} {escape(record['phase'])}  train loss {record['train_loss']:.4f} "
            f"accuracy {record['train_accuracy']:.3f}{choice}  [dim]{record['images_per_second']:.0f} images/s[/dim]"
        )

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
