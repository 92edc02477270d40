"""Callbacks: what observes a run while it trains, such as a tracker. They learn what happens and change nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from zoo.option import Option

# Columns of the history that trackers draw as curves
CURVES = ("train_loss", "train_accuracy", "choice_loss", "choice_accuracy", "lr", "images_per_second")

FileKind = Literal["record", "history", "splits", "rates", "weights", "unknown", "predictions"]


@dataclass(frozen=True, kw_only=True)
class Callback:
    """A callback that a plugin registers.

    Attributes:
        name: What `--callback` takes.
        summary: One line for `zoo list callbacks`.
        target: `"module:function"`, called with the options by name as a run starts; it returns a function of one
            event, which may return JSON values that the run keeps (a mapping, or None). Both run in a process of their
            own, in which nothing else does.
        options: Options, which the function receives by name.
        requires: Top-level modules that must be installed; looked for before training begins.
        install: Command that installs them, such as `pip install 'backbone-zoo[mlflow]'`.
        limit: Seconds that an event may take, and all that are left when training ends; then the callback is off.
    """

    name: str
    summary: str
    target: str = field(repr=False)
    options: tuple[Option, ...] = ()
    requires: tuple[str, ...] = ()
    install: str = ""
    limit: float = 60.0


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A run starts to train, or goes on: the first event.

    Attributes:
        name: Name of the run's folder; of a fold, with that of its run.
        folder: The run's folder, absolute. What a callback writes there goes to `callbacks/` in it.
        group: Name of the study, or of the run of folds, that the run is part of. None: it stands alone.
        record: `run.json` as it begins: settings, data, versions, machine.
        resumed: Whether the run was stopped before.
        kept: What the callback returned in earlier sessions of the run, by key.
    """

    name: str
    folder: Path
    group: str | None
    record: Mapping[str, Any]
    resumed: bool
    kept: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """The settings of the experiment by name, each one value; those that are None are left out."""
        found = {**self.record["experiment"], "backbone": self.record["backbone"], "strategy": self.record["strategy"]}
        return {name: _single(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EpochEnded:
    """An epoch, or a phase that is solved, ended. Each comes once, also where a run is stopped and resumed.

    Attributes:
        number: Its line of the history, from 1.
        record: That line.
    """

    number: int
    record: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """Figures that make a curve, by name: losses, accuracies, learning rate, speed."""
        found = {name: self.record.get(name) for name in CURVES}
        return {name: float(value) for name, value in found.items() if value is not None and is_finite(value)}


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The trained network was scored on the reported split.

    Attributes:
        split: `val`, `test` or `folds`.
        images: Number of images.
        metrics: By name. None: a metric that failed or does not apply.
        accuracy_interval_95: Low and high end.
        classes: Names in the order of the logits.
        confusion: `(classes, classes)` numbers of images, by true class (rows) and predicted class (columns).
    """

    split: str
    images: int
    metrics: Mapping[str, float | None]
    accuracy_interval_95: Sequence[float]
    classes: Sequence[str]
    confusion: Sequence[Sequence[int]]

    @property
    def figures(self) -> dict[str, float]:
        """The metrics that have a value, and the interval."""
        low, high = self.accuracy_interval_95
        found = {**self.metrics, "accuracy_low_95": low, "accuracy_high_95": high}
        return {name: float(value) for name, value in found.items() if value is not None and is_finite(value)}


@dataclass(frozen=True, kw_only=True)
class FileWritten:
    """A file of the run is complete.

    Attributes:
        file: Its path, absolute.
        kind: What it holds.
    """

    file: Path
    kind: FileKind


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is finished, was interrupted, or failed: the last event, but for a process that is killed.

    Attributes:
        status: `finished`, `interrupted` or `failed`.
        failure: Why it failed. None: it did not.
        record: `run.json` as it ends.
    """

    status: Literal["finished", "interrupted", "failed"]
    failure: str | None
    record: Mapping[str, Any]


Event = RunStarted | EpochEnded | Evaluated | FileWritten | RunEnded
_EVENTS: dict[str, Any] = {kind.__name__: kind for kind in (RunStarted, EpochEnded, Evaluated, FileWritten, RunEnded)}


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as JSON values."""
    found = {one.name: getattr(event, one.name) for one in fields(event)}
    return {
        "event": type(event).__name__,
        **{name: str(value) if isinstance(value, Path) else value for name, value in found.items()},
    }


def event_from_json(data: Mapping[str, Any]) -> Event:
    """Read what `event_to_json` wrote."""
    values = dict(data)
    kind = _EVENTS[values.pop("event")]
    for name in ("folder", "file"):
        if name in values:
            values[name] = Path(values[name])
    event: Event = kind(**values)
    return event


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _single(value: Any) -> str | int | float | bool:
    """A setting as one value: several are joined by spaces."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return value if isinstance(value, (str, int, float, bool)) else str(value)
