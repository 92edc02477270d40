"""Executors: where the trials of a study are carried out.

The folder of a trial decides its result. An executor that loses contact with a trial therefore reads its folder before
it reports the trial as failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from zoo.errors import DiskFull
from zoo.experiment import Experiment
from zoo.studies.trial import Trial, TrialResult, TrialState, result_of_folder
from zoo.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "zoo.studies.trial_worker:TrialWorker"
LOG = 2000  # last characters of a failed trial's log that are kept


class TrialExecutor(Protocol):
    """Carries out trials. Futures complete in any order; use `concurrent.futures.wait` or `as_completed`."""

    @property
    def slots(self) -> int:
        """How many trials may be submitted at a time."""
        ...

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        """Begin a trial in its folder, or continue the stopped run that is there.

        The future gives a result whatever happens to the trial. It raises `DiskFull` where the disk is full, since
        every other trial would fail as well.
        """
        ...

    def cancel(self) -> None:
        """Stop every trial that was submitted, finished or not, and release all resources."""
        ...


class LocalProcess:
    """One worker process on this machine, which trains one trial after another. Implements `TrialExecutor`."""

    slots = 1

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = Lock()  # a worker is made by the thread that trains, and closed by the one that cancels
        self._cancelled = False

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request to the worker and wait for its answer; a worker that died before is replaced.

        Raises:
            WorkerFailed: the worker reports an error, or dies; or the executor is being cancelled.
            DiskFull: the disk is full.
        """
        with self._lock:
            if self._cancelled:
                raise WorkerFailed("the trial was cancelled before it began")
            if self._worker is None:
                self._worker = WorkerProcess(WORKER)
            worker = self._worker
        try:
            return worker.ask(do, timeout=None, **request)
        except WorkerFailed as failure:
            if not worker.alive and self._worker is worker:
                worker.close()
                self._worker = None
            if failure.kind is DiskFull:
                raise DiskFull(failure.reason, hint="make room, then continue the study") from failure
            raise

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="trial")
        return self._thread.submit(self._train, trial, experiment, folder, tuned)

    def _train(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None
    ) -> TrialResult:
        try:
            done = self.ask("train", experiment=experiment.to_json(), folder=str(folder))
        except WorkerFailed as failure:
            return result_of_folder(trial, folder, tuned) or TrialResult(
                trial=trial,
                state=TrialState.FAILED,
                failure=failure.reason,
                hint=failure.hint,
                log=failure.log[-LOG:],
            )
        return TrialResult(trial=trial, state=TrialState.FINISHED, **done, tuned=tuned or None)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True  # so that the thread makes no new worker
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
        self._cancelled = False
