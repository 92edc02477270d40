"""Trials of a study: one training run each, and its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runs.run import Run, now
from zoo.storage.files import json_text

READABLE = 52  # characters of backbone and strategy in a trial's name; file systems take 255 bytes in all
DIGITS = 8  # of the digest in a trial's name


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study."""

    backbone: str  # qualified
    strategy: str  # canonical
    seed: int
    fraction: float

    @property
    def configuration(self) -> str:
        """The configuration that the trial trains with one of several seeds: backbone and strategy."""
        return f"{self.backbone} {self.strategy}"

    @property
    def name(self) -> str:
        """The name of its folder, which no other trial has, without characters special to a shell or a file system.

        It ends in a digest of the exact words, since different words may read alike without those characters.
        """
        exact = json_text([self.backbone, self.strategy, self.seed, float(self.fraction)], ascii_only=True)
        words = _readable(f"{self.backbone}-{self.strategy}")[:READABLE]
        return f"{words}-{self.fraction:g}-{self.seed}-{hashlib.sha256(exact.encode()).hexdigest()[:DIGITS]}"

    @property
    def old_name(self) -> str:
        """The name of its folder in studies of earlier versions, which another trial may have, too."""
        return _readable(f"{self.backbone}-{self.strategy}-{self.fraction:g}-{self.seed}")


def _readable(words: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in words)


def fraction_text(fraction: float) -> str:
    """The shortest usual text of a fraction that reads back as the same number: `1`, `0.1`, `0.03333333333333333`."""
    short = f"{fraction:g}"
    return short if float(short) == fraction else repr(float(fraction))


class TrialState(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    FAILED = "failed"  # it began and could not be finished
    PRUNED = "pruned"  # of a search: it was ended early, because other settings were ahead
    REFUSED = "refused"  # it did not begin: it exceeds a bound of the study, or the strategy does not fit the backbone


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a trial: one line of `outcomes.jsonl`."""

    trial: Trial
    state: TrialState
    name: str = ""  # of the trial's folder; by default the trial's own name
    time: str = field(default_factory=now)  # when it ended; ISO 8601, UTC
    seconds: float = 0.0  # wall time of a finished trial
    core_seconds: float = 0.0  # processor time of a finished trial
    others: float = 0.0  # processors that other programs kept busy meanwhile, on average
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    tuned: Mapping[str, Any] | None = None  # settings that the search found
    failure: str = ""
    hint: str | None = None
    log: str = ""  # last lines that the process printed before it failed

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.trial.name)

    @property
    def finished(self) -> bool:
        return self.state is TrialState.FINISHED

    def to_json(self) -> dict[str, Any]:
        """JSON values, as `outcomes.jsonl` has them."""
        line = {**vars(self.trial), "name": self.name, "time": self.time, "status": str(self.state)}
        if self.finished:
            line |= {"seconds": self.seconds, "core_seconds": self.core_seconds, "others": self.others}
            line["metrics"] = dict(self.metrics)
            return line | ({"tuned": dict(self.tuned)} if self.tuned else {})
        if self.state is TrialState.REFUSED:
            return {**line, "failure": self.failure}
        return {**line, "failure": self.failure, "hint": self.hint, "log": self.log}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> TrialResult:
        """Read what `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the line is damaged.
        """
        return cls(
            trial=Trial(**{name: line[name] for name in ("backbone", "strategy", "seed", "fraction")}),
            state=TrialState(line["status"]),
            name=str(line["name"]),
            time=str(line.get("time", "")),
            seconds=line.get("seconds", 0.0),
            core_seconds=line.get("core_seconds", 0.0),
            others=line.get("others", 0.0),
            metrics=line.get("metrics") or {},
            tuned=line.get("tuned"),
            failure=line.get("failure", ""),
            hint=line.get("hint"),
            log=line.get("log", ""),
        )


def can_continue(path: Path) -> bool:
    """Whether the folder holds a run that can be continued, or one that is finished and intact."""
    try:
        run = Run.open(path)
        if run.status == "finished":
            run.predictions()
    except ZooError:
        return False
    return run.status != "failed"


def failed_callbacks(folder: Path) -> dict[str, str]:
    """Why callbacks of the run in a folder failed, by name; empty where the run cannot be opened."""
    try:
        found = Run.open(folder).record.get("callbacks") or []
    except ZooError:
        return {}
    return {one["name"]: one["failure"] for one in found if one.get("failure")}


def result_of_folder(trial: Trial, folder: Path, tuned: Mapping[str, Any] | None = None) -> TrialResult | None:
    """The result of a trial whose folder holds an intact, finished run; None where it does not."""
    try:
        run = Run.open(folder)
        if run.status != "finished":
            return None
        run.predictions()
    except ZooError:
        return None
    seconds = float((run.record.get("seconds") or {}).get("total", 0.0))
    return TrialResult(
        trial=trial,
        name=folder.name,
        state=TrialState.FINISHED,
        seconds=seconds,
        others=run.record.get("others", 0.0),
        metrics=run.metrics,
        tuned=tuned or None,
    )
