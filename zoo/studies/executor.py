"""Executors: where the trials of a study are carried out.

The folder of a trial decides its result. An executor that loses contact with a trial therefore reads its folder before
it reports the trial as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock
from typing import Any, Protocol, TypeVar

from zoo.errors import DiskFull
from zoo.experiment import Experiment
from zoo.studies.trial import Trial, TrialResult, TrialState, result_of_folder
from zoo.system.processors import asked_threads, usable_cpus
from zoo.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "zoo.studies.trial_worker:TrialWorker"
Answer = TypeVar("Answer")
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

    def __init__(self, threads: int | None = None) -> None:
        """Start no process yet. `threads` compute in it; None: as many as in this process."""
        self._threads = threads
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
                self._worker = WorkerProcess(WORKER, threads=self._threads)
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


class LocalProcesses:
    """Several worker processes on this machine, which train as many trials at a time. Implements `TrialExecutor`.

    Each trial is carried out as by one process that computes with `threads`, and has the same bits. A worker trains
    trials of the backbone that it trained before, where there are any, since it has their features in memory.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        """Start no process yet.

        Args:
            jobs: Number of processes.
            threads: Threads of each. None: those asked for by `--threads`, else the processors that this process may
                use, shared out.
        """
        threads = threads or asked_threads() or max(1, usable_cpus() // jobs)
        self._idle = [LocalProcess(threads) for _ in range(jobs)]
        self._all = tuple(self._idle)
        self._backbones: dict[LocalProcess, str] = {}
        self._free = Condition()
        self._pool: ThreadPoolExecutor | None = None
        self._running: set[Future[TrialResult]] = set()
        self._cancelled = False

    @property
    def slots(self) -> int:
        return len(self._all)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request to a worker that is idle, and wait for its answer; see `LocalProcess.ask`."""
        with self._one(None) as worker:
            return worker.ask(do, **request)

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="trial")
        future = self._pool.submit(self._train, trial, experiment, folder, tuned)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _train(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None
    ) -> TrialResult:
        with self._one(trial.backbone) as worker:
            if self._cancelled:
                raise CancelledError
            return worker.submit(trial, experiment, folder, tuned).result()

    @contextmanager
    def _one(self, backbone: str | None) -> Iterator[LocalProcess]:
        """A worker that is idle, that of the backbone if possible."""
        with self._free:
            self._free.wait_for(lambda: self._idle)
            worker = min(self._idle, key=lambda one: self._backbones.get(one) != backbone)
            self._idle.remove(worker)
            if backbone is not None:
                self._backbones[worker] = backbone
        try:
            yield worker
        finally:
            with self._free:
                self._idle.append(worker)
                self._free.notify()

    def cancel(self) -> None:
        self._cancelled = True  # a thread that has a worker already, and has not submitted yet, submits no more
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        while True:
            for worker in self._all:
                worker.cancel()
            if not wait(set(self._running), timeout=0.2).not_done:
                break
        self._pool = None
        self._cancelled = False


def answers_of(
    local: LocalProcess | LocalProcesses, asked: Sequence[Callable[[], Answer]]
) -> Iterator[Answer | WorkerFailed]:
    """What requests to the workers of this machine give, in order; as many are under way as there are workers."""
    if local.slots == 1:
        for request in asked:
            yield _answer(request)
        return
    threads = ThreadPoolExecutor(local.slots, thread_name_prefix="request")
    try:
        for future in [threads.submit(_answer, request) for request in asked]:
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # whoever stops the session closes the workers


def _answer(asked: Callable[[], Answer]) -> Answer | WorkerFailed:
    try:
        return asked()
    except WorkerFailed as failure:
        return failure
