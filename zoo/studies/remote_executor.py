"""Remote executors: trials on other machines, whose engine is asked for no more than to run a function once.

The machines share the study's folder, or an object store. What an engine says of a trial that it lost is not believed:
its folder is read, or the store.
Executors are no plugins: another one is a subclass of `RemoteExecutor`, which `zoo.study(executor=...)` takes.
"""

from __future__ import annotations

import contextlib
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from zoo.errors import DiskFull, UsageError, ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.runs.looks import TRIALS
from zoo.studies.executor import LOG
from zoo.studies.machine_state import machine_state
from zoo.studies.running import begin_session, end_session, running_trials
from zoo.studies.study_store import StoreSession
from zoo.studies.trial import Trial, TrialResult, TrialState, result_of_folder
from zoo.system.processors import asked_threads

MOST_SLOTS = 1000  # a thread of the session waits for each


class TrialLost(Exception):
    """The engine lost a trial: its process or its machine is gone, or it was cancelled."""


class RemoteExecutor(ABC):
    """Carries out trials on machines that share the study's folder or a store. Implements `TrialExecutor`.

    A subclass says how many `slots` there are, and runs a function once on some machine.
    """

    slots = 1

    def __init__(self, cpus: int = 1, gpus: float = 0.0, plugins: Plugins | None = None) -> None:
        """Start nothing yet.

        Args:
            cpus: Processors of each trial. It computes with as many threads unless `--threads` says how many.
            gpus: GPUs of each trial, which may be a fraction.
            plugins: Loaded plugins. None: they are loaded.

        Raises:
            UsageError: a number is too small.
        """
        if cpus < 1 or not 0 <= gpus < float("inf"):
            raise UsageError(
                f"a trial cannot have {cpus} processors and {gpus:g} GPUs", hint="such as `--cpus-per-trial 2`"
            )
        self.cpus, self.gpus = cpus, gpus
        self._plugins = plugins
        self._threads = asked_threads() or cpus
        self._pool: ThreadPoolExecutor | None = None
        self._study: Path | None = None
        self._token = ""
        self.store: StoreSession | None = None  # where machines share no folder
        self._states: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._lock = Lock()

    @abstractmethod
    def run_once(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have some machine call `remote_trial.carry_out` with the request, at most once, and wait for what it returns.

        It is called by as many threads as there are slots.

        Raises:
            TrialLost: it began, perhaps, and gives no answer.
            ZooError: the engine itself is gone, or its machines cannot run the function.
        """

    def finished(self, request: Mapping[str, Any]) -> bool:
        """Whether the run of a trial is finished, so that an answer need not be waited for: it may have been lost."""
        if self.store is not None:
            return self.store.finished(request["name"])
        study, name = Path(request["study"]), request["name"]
        return (
            name not in running_trials(study)
            and result_of_folder(Trial(**request["trial"]), study / TRIALS / name) is not None
        )

    @abstractmethod
    def stop(self) -> None:
        """Stop every trial that was submitted, and release the engine; `run_once` then raises `TrialLost`."""

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="remote-trial")
            self._study = folder.parent.parent.absolute()
            self._token = begin_session(self._study) if self.store is None else self.store.begin(self._study)
        return self._pool.submit(self._train, trial, experiment, folder.absolute(), tuned)

    def _train(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None
    ) -> TrialResult:
        if self.store is not None and (done := self.store.fetch(trial, folder)) is not None:
            return done  # its session ended before it was fetched
        if isinstance(experiment.exclude, str):  # the worker has another working directory
            experiment = replace(experiment, exclude=str(Path(experiment.exclude).absolute()))
        request = {
            "study": str(self._study),
            "session": self._token,
            "trial": vars(trial),
            "name": folder.name,
            "experiment": experiment.to_json(),
            "tuned": None if tuned is None else dict(tuned),
            "threads": self._threads,
            "state": self._state(experiment),
            **({} if self.store is None else self.store.request(experiment, folder)),
        }
        try:
            answer = self.run_once(request)
        except TrialLost as lost:
            if self.store is not None and (done := self.store.fetch(trial, folder)) is not None:
                return done
            return result_of_folder(trial, folder, tuned) or TrialResult(
                trial=trial,
                state=TrialState.FAILED,
                failure=str(lost),
                hint=f"`zoo study {shlex.quote(str(self._study))} --retry` continues it",
            )
        if "outcome" in answer:
            found = TrialResult.from_json(answer["outcome"])
            if self.store is not None and found.finished:
                found = self.store.fetch(trial, folder) or found
            return found if found.finished else replace(found, log=found.log[-LOG:])
        kind = DiskFull if "full" in answer else ZooError
        raise kind(answer.get("full") or answer["refused"], hint=answer["hint"])

    def _state(self, experiment: Experiment) -> dict[str, Any]:
        """The versions and images of this machine, which others must have; images are read once."""
        key = (experiment.data, experiment.split_seed, experiment.group)
        with self._lock:
            if key not in self._states:
                if self._plugins is None:
                    self._plugins = Plugins()
                self._states[key] = machine_state(experiment, self._plugins)
            return self._states[key]

    def cancel(self) -> None:
        if self._study is not None:
            end_session(self._study)
        if self._study is not None and self.store is not None:
            with contextlib.suppress(ZooError):  # a store that is gone lets nobody begin
                self.store.end()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._pool = self._study = None
        self._states.clear()
