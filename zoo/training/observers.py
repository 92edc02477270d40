"""Observers: the callbacks of a run while it trains, each in a process of its own, behind a queue.

Training puts events into queues and goes on. A callback that raises, hangs or ends its process is off from then on;
the run says so in one line. What each has seen is kept in the run's folder `callbacks`, so that a resumed run tells
no epoch twice.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np

from zoo.callback import EpochEnded, Evaluated, Event, FileKind, FileWritten, RunEnded, RunStarted, event_to_json
from zoo.config.callbacks import usable_callbacks
from zoo.config.choice import Choice
from zoo.config.context import Context
from zoo.errors import ZooError, first_line, type_and_first_line
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.runs.looks import FINALS, STUDY_FILE, TRIALS
from zoo.runs.run import CALLBACKS, FOLDS, HISTORY_FILE, RATES_FILE, RUN_FILE, SPLITS_FILE, Run
from zoo.storage.address import without_secrets
from zoo.system.worker_process import WorkerFailed, WorkerProcess
from zoo.training.callback_worker import Seen

WORKER = "zoo.training.callback_worker:CallbackWorker"
LONGEST = 2000  # characters of where a callback writes to, which may be a command with a path
MOST = 200  # characters of a reason; some libraries write pages
DIGITS = 8  # of the digest in the name of the file that keeps what a callback has seen

# Seconds in which a callback may finish what it does where its run was killed, so that a tracker's log is whole
LINGER = 30.0
# Seconds that a run which did not finish waits for its callbacks: a scheduler kills soon after it has asked a process
# to end, and a user waits for the reason
UNFINISHED = 20.0
# Seconds in which a callback's process must be ready, on a busy machine too, with what it imports
STARTUP = 60.0
# Seconds without an answer after which the wait at the end of training is shown
SHOWN_AFTER = 2.0


class Observer:
    """One callback of a run: a process that handles events, and a thread that passes them on one by one."""

    def __init__(self, choice: Choice, folder: Path) -> None:
        self.choice = choice
        self.seen = Seen.read(folder / CALLBACKS / _file_of(choice), str(choice))
        self.failure: str | None = None
        self.limit = float(choice.entry.value.limit)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = Lock()  # of the process, which either thread may end
        self._worker: WorkerProcess | None = None
        try:
            self._worker = WorkerProcess(WORKER, threads=1, linger=LINGER)
        except OSError as error:
            self.failure = f"its process cannot be started: {first_line(error)}"
        self._thread = Thread(target=self._pass_on, name=f"callback {choice.entry.name}", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Queue an event; one that the callback has seen in an earlier session is left out."""
        if isinstance(event, EpochEnded) and event.number <= self.seen.epochs:
            return
        if not (isinstance(event, Evaluated) and self.seen.evaluated):
            self._events.put(event)

    def finish(self) -> None:
        """Say that no event follows."""
        self._events.put(None)

    def is_done(self, seconds: float) -> bool:
        """Whether all events are handled, after waiting at most so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        self._thread.join(5)

    def _pass_on(self) -> None:
        row, worker, opened = self.choice.entry.value, self._worker, False
        while (event := self._events.get()) is not None:
            if self.failure is not None or worker is None:
                continue
            place = type(event).__name__ + (f" {event.number}" if isinstance(event, EpochEnded) else "")
            try:
                if not opened:
                    worker.ask(
                        "open",
                        max(self.limit, STARTUP),
                        target=row.target,
                        options=dict(self.choice.values),
                        file=str(self.seen.file),
                        callback=self.seen.callback,
                    )
                    opened = True
                answer = worker.ask("handle", self.limit, event=event_to_json(event))
                self.seen.note(event, answer["kept"])
            except WorkerFailed as failure:
                self._fail(place, failure.reason)
            except Exception as error:  # whatever it is, it must not end the run
                self._fail(place, type_and_first_line(error))

    def _fail(self, place: str, reason: str) -> None:
        reason = without_secrets(reason)  # before it is cut, or a part of a secret would stay
        if self.failure is None:
            self.failure = f"in `{place}`: {_one_line(reason, MOST)}"
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class Observers:
    """All callbacks of a run. Nothing here raises, or waits for a callback before training ends."""

    def __init__(self, choices: Sequence[Choice], run: Run, progress: Progress) -> None:
        self._folder, self._progress = run.path.resolve(), progress
        self._observers: list[Observer] = []
        self._told: set[str] = set()
        self._begun = False
        if choices:
            self._observers = [Observer(choice, self._folder) for choice in choices]

    def begin(self, run: Run, lines: Iterable[dict[str, Any]], *, resumed: bool) -> None:
        """Tell that the run starts, and the `lines` of its history that are complete."""
        self._begun = True
        for one in self._observers:
            one.send(
                RunStarted(
                    name=_name_of(self._folder),
                    folder=self._folder,
                    group=group_of(self._folder),
                    record=dict(run.record),
                    resumed=resumed,
                    kept=dict(one.seen.kept),
                )
            )
        self.written(SPLITS_FILE, "splits")
        self.written(RATES_FILE, "rates")
        for number, line in enumerate(lines, start=1):
            self.epoch(number, line)

    def epoch(self, number: int, line: dict[str, Any]) -> None:
        """Tell that a line of the history was written."""
        self._send(EpochEnded(number=number, record=line))

    def written(self, name: str, kind: FileKind) -> None:
        """Tell that a file of the run is complete, if there is one."""
        if self._observers and (self._folder / name).is_file():
            self._send(FileWritten(file=self._folder / name, kind=kind))

    def evaluated(self, run: Run, figures: Mapping[str, Any]) -> None:
        """Tell the figures of the reported split, as `run.json` has them, and its predictions."""
        if not self._observers:
            return
        split = str(run.record["reported_split"])
        try:
            table = run.predictions(split)
        except ZooError as error:
            self._progress.warn(f"the callbacks get no figures: {error.message}")
            return
        size = len(table.classes)
        confusion = np.zeros((size, size), np.int64)
        np.add.at(confusion, (table.labels, table.predicted), 1)
        self._send(
            Evaluated(
                split=split,
                images=len(table),
                metrics=dict(figures["metrics"]),
                accuracy_interval_95=list(figures["accuracy_interval_95"]),
                classes=list(table.classes),
                confusion=confusion.tolist(),
            )
        )
        self.written(f"predictions-{split}.safetensors", "predictions")

    def end(self, run: Run) -> Run:
        """Tell that the run ended, and wait for the callbacks; returns the run, whose record has those that failed."""
        if not self._observers:
            return run
        status = run.record["status"]
        if self._begun and status in ("finished", "interrupted", "failed"):
            self.written(HISTORY_FILE, "history")
            self.written(RUN_FILE, "record")
            self._send(RunEnded(status=status, failure=run.record.get("failure"), record=dict(run.record)))
        try:
            self._wait(None if status == "finished" else UNFINISHED)
        finally:
            for one in self._observers:
                one.close()
        self._tell()
        callbacks = [{**one.choice.to_json(), "failure": one.failure} for one in self._observers]
        try:
            return run.update(callbacks=callbacks)
        except ZooError as error:  # such as a full disk, which a run that failed has told already
            self._progress.warn(f"`{RUN_FILE}` does not say which callbacks failed: {error.message}")
            return run

    def _wait(self, at_most: float | None) -> None:
        """Wait for all callbacks together: each may take its limit."""
        began = time.monotonic()
        for one in self._observers:
            one.finish()
        for one in self._observers:
            limit = one.limit if at_most is None else min(one.limit, at_most)
            if one.is_done(SHOWN_AFTER):
                continue
            self._progress.start(f"callback {one.choice.entry.name}", 0, "events")
            if not one.is_done(max(limit - (time.monotonic() - began), 0.0)) and one.failure is None:
                one.failure = f"not done {limit:g} seconds after the end of training"
            self._progress.stop()

    def _send(self, event: Event) -> None:
        for one in self._observers:
            one.send(event)
        self._tell()

    def _tell(self) -> None:
        """Say what is new: where a callback writes to, and that one failed. In the thread of the run."""
        for one in self._observers:
            name, where = str(one.choice), one.seen.kept.get("where")
            if isinstance(where, str) and f"where {name}" not in self._told:
                self._told.add(f"where {name}")
                self._progress.note(f"callback `{name}`: {_one_line(without_secrets(where), LONGEST)}")
            if one.failure is not None and name not in self._told:
                self._told.add(name)
                self._progress.warn(
                    f"callback `{name}` failed ({one.failure}): it is off from here on, and the run goes on without it"
                )


def with_usable_callbacks(experiment: Experiment, context: Context) -> Experiment:
    """The experiment of a run that goes on, without callbacks that cannot be used here; a warning names each."""
    texts, problems = usable_callbacks(experiment.callback, context.plugins)
    for problem in problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        context.progress.warn(f"{problem.message}: the run goes on without it{hint}")
    return replace(experiment, callback=texts)


def _one_line(text: str, most: int) -> str:
    """A text of a callback as one line, cut where it is long, without characters that move a terminal's cursor."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[:most] + " ..."


def _file_of(choice: Choice) -> str:
    """Name of the file that keeps what a callback has seen; with other options it is another one."""
    digest = hashlib.sha256(str(choice).encode()).hexdigest()[:DIGITS]
    return f"{choice.entry.provider}-{choice.entry.name}-{digest}.json"


def group_of(folder: Path) -> str | None:
    """Name of the study, or of the run of folds, that a run's folder is part of. None: it stands alone."""
    kind, whole = folder.parent.name, folder.parent.parent
    if kind in (TRIALS, FINALS) and (whole / STUDY_FILE).is_file():
        return whole.name
    if kind == FOLDS and (whole / RUN_FILE).is_file():
        return group_of(whole) or whole.name
    return None


def _name_of(folder: Path) -> str:
    """Name of a run for its callbacks."""
    whole = folder.parent.parent
    is_fold = folder.parent.name == FOLDS and (whole / RUN_FILE).is_file()
    return f"{whole.name}-fold-{folder.name}" if is_fold else folder.name
