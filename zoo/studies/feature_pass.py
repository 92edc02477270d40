"""Feature pass: features of all shards of the data, each computed by a worker as one task and kept in the store.

The store, not what a worker answers, says what is computed: after a kill the same call computes the shards that were
under way, and none that was finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config.context import Context
from zoo.config.references import absolute_weights, look_up
from zoo.data.decode_plan import USES, decode_requests
from zoo.data.decoding import BadFile, DecodeRequest
from zoo.data.exclusion import absolute_list
from zoo.data.opening import absolute, note_images
from zoo.data.sample_columns import Ranges
from zoo.data.shard_passes import note_pass
from zoo.data.shards import FileState, Shard, shards_of
from zoo.errors import DiskFull, UsageError, ZooError, counted
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.parent import inherited
from zoo.storage.tensor_store import size_text
from zoo.studies.executor import LocalProcesses
from zoo.studies.remote_executor import RemoteExecutor, TrialLost
from zoo.system.environment import versions
from zoo.system.processors import asked_threads
from zoo.system.worker_process import ERROR_TYPES, WorkerFailed
from zoo.training.acceptance import accept

SHOWN = 10  # images and shards that a warning names
NOTES = 48  # bytes of an image in an entry beside its features: offset and digest


@dataclass(frozen=True, kw_only=True)
class FeaturePass:
    """What a pass has done.

    Attributes:
        store: Folder of the features.
        shards: Number of shards.
        computed: Images whose features were computed.
        kept: Images whose features were kept before.
        computed_shards: Shards of which an image was computed.
        bad: Images that cannot be used, and why.
        doubtful: Number of images that are used though something is wrong with them.
        bytes: Size of the features of all images.
        engine: What computed them.
        seconds: Of the pass.
        core_seconds: Processor time of the workers, over all shards.
        peak_memory: Largest peak of a worker's resident memory, in bytes.
    """

    store: Path
    shards: int
    computed: int
    kept: int
    computed_shards: int
    bad: tuple[BadFile, ...]
    doubtful: int
    bytes: int
    engine: str
    seconds: float
    core_seconds: float
    peak_memory: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "store": str(self.store), "bad": [vars(one) for one in self.bad]}


@dataclass(frozen=True)
class _Task:
    """One shard: its file, the state it was listed in, and the images of each role with their use."""

    file: str
    state: FileState
    parts: Mapping[str, Shard]

    @property
    def count(self) -> int:
        return sum(len(shard.indices) for shard in self.parts.values())

    def uses(self) -> dict[str, list[list[int]]]:
        """Offsets and sizes of the images, by their use and in order."""
        found: dict[str, list[Ranges]] = {}
        for role, shard in self.parts.items():
            found.setdefault(USES[role], []).append(shard.ranges)
        return {use: _in_order(some) for use, some in found.items()}


def _in_order(parts: Sequence[Ranges]) -> list[list[int]]:
    offsets, sizes = np.concatenate([one.offsets for one in parts]), np.concatenate([one.sizes for one in parts])
    order = np.argsort(offsets, kind="stable")
    return [offsets[order].tolist(), sizes[order].tolist()]


class _Workers:
    """Worker processes of this machine, or those of an engine, behind one function."""

    def __init__(self, jobs: int, executor: RemoteExecutor | None) -> None:
        self._local = LocalProcesses(jobs) if executor is None else None
        self._executor = executor
        self._threads = None if executor is None else asked_threads() or executor.cpus
        self._stopped = False

    @property
    def slots(self) -> int:
        return self._local.slots if self._local is not None else self._executor.slots  # type: ignore[union-attr]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have a worker carry out `TrialWorker.shard_features`.

        Raises:
            WorkerFailed: it reports an error, or is gone.
            DiskFull: the store has no room.
            ZooError: the engine is gone.
        """
        if self._stopped:
            raise WorkerFailed("the pass was stopped before it began")
        if self._local is not None:
            return self._local.ask("shard_features", **request)
        assert self._executor is not None
        asked = {
            "study": request["store"],  # a folder that all machines see, for the engine's own files
            "features": dict(request),
            "threads": self._threads,
            "versions": versions(),
        }
        try:
            answer = self._executor.run_once(asked)
        except TrialLost as lost:
            raise WorkerFailed(str(lost)) from lost
        if "answer" in answer:
            found: dict[str, Any] = answer["answer"]
            return found
        kind = ERROR_TYPES.get(answer["kind"])
        if kind is DiskFull:
            raise DiskFull(answer["failed"], hint=answer["hint"])
        raise WorkerFailed(answer["failed"], hint=answer["hint"], kind=kind)

    def stop(self) -> None:
        """Stop all that is under way; it may be called from another thread than `ask`."""
        self._stopped = True
        if self._local is not None:
            self._local.cancel()
        elif self._executor is not None:
            self._executor.cancel()


def compute_features(
    experiment: Experiment,
    *,
    jobs: int = 1,
    executor: RemoteExecutor | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> FeaturePass:
    """Compute the features of all images of an experiment that are not kept yet, shard by shard.

    `zoo train` with the same settings then finds them, and decodes nothing.

    Args:
        experiment: Settings of the run that the features are for. Its strategy is solved from features, as `linear`.
        jobs: Number of worker processes on this machine.
        executor: Carries the shards out elsewhere; the machines share the data and the cache folder.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: a setting is wrong, the data are not shards, or the strategy is not solved.
        ZooError: a shard could not be computed, the store has no room, or the data cannot be used.
    """
    context, started = Context.of(plugins, progress), time.perf_counter()
    _check(experiment)
    typed, data = experiment, absolute(experiment.data, context.plugins)
    experiment = inherited(replace(experiment, data=data, exclude=absolute_list(experiment.exclude)))
    experiment = replace(experiment, weights=absolute_weights(experiment.weights))
    store = context.store
    if store is None or store.folder is None or not store.budget:
        why = store.failure if store is not None and store.failure else "there is no cache folder, or its budget is 0"
        raise ZooError(f"features cannot be kept: {why}", hint="set `ZOO_CACHE` and `ZOO_CACHE_BUDGET`")
    preprocess = look_up(experiment, context.plugins).preprocess
    accepted = accept(experiment, context.plugins)
    images = accepted.selection.images
    note_images(images, context.progress)
    requests = decode_requests(images, accepted.roles, preprocess)
    tasks = _tasks(requests, experiment.data)
    count = sum(task.count for task in tasks)
    for one in (typed, experiment):
        note_pass(one)
    shared = {
        "experiment": experiment.to_json(),
        "classes": list(images.classes),
        "store": str(store.folder.absolute()),
        "budget": store.requested_budget,
        "images": count,
    }
    workers = _Workers(jobs, executor)
    session = _Session(workers, tasks, shared, requests, context.progress)
    try:
        size = session.begin()
        if size > store.budget:
            raise ZooError(
                f"features of {counted(count, 'image')} take {size_text(size)}, and `{store.folder}` may hold "
                f"{size_text(store.budget)}",
                hint="set `ZOO_CACHE_BUDGET` to more, such as 100G, or make room: half of what is free may be used",
            )
        session.carry_out()
    except KeyboardInterrupt as stop:
        stop.add_note(f"{session.finished_text()}; the same command goes on from there")
        raise
    finally:
        workers.stop()
        context.progress.stop()
    session.report([BadFile(*one) for one in images.rejected])
    return FeaturePass(
        store=store.folder,
        shards=len(tasks),
        bytes=size,
        engine=str(session.engine["name"]),
        seconds=round(time.perf_counter() - started, 2),
        **session.sums(),
    )


def _check(experiment: Experiment) -> None:
    if experiment.cache == "off":
        raise UsageError("`--cache off` keeps no features", hint="leave it out")
    if experiment.folds is not None:
        raise UsageError(
            "`--folds` has no meaning for features of shards", hint="leave it out: folds share the features of images"
        )


def _tasks(parts: Mapping[str, DecodeRequest], data: str) -> list[_Task]:
    """The shards with their images, in the order of their names.

    Raises:
        UsageError: the images are not parts of files.
        ZooError: a shard is gone.
    """
    found: dict[str, dict[str, Shard]] = {}
    for role, part in parts.items():
        shards = shards_of(part.samples)
        if shards is None:
            raise UsageError(
                f"the images of `{data}` are not in shards", hint="pass WebDataset shards: `wds:shard-{000..099}.tar`"
            )
        for shard in shards:
            found.setdefault(shard.file, {})[role] = shard
    return [_Task(file, FileState.of(file), one) for file, one in sorted(found.items())]


class _Session:
    """Asks workers for one shard after the other, and counts what they answer."""

    def __init__(
        self,
        workers: _Workers,
        tasks: Sequence[_Task],
        shared: Mapping[str, Any],
        parts: Mapping[str, DecodeRequest],
        progress: Progress,
    ) -> None:
        self.engine: dict[str, Any] = {}
        self._workers, self._tasks, self._shared, self._parts = workers, tasks, shared, parts
        self._progress = progress
        self._slots = 1
        self._answers: list[dict[str, Any]] = []
        self._bad: list[BadFile] = []
        self._failed: list[tuple[str, str, str | None]] = []

    def begin(self) -> int:
        """Choose the engine of all shards; returns the bytes that the features of all images take.

        Raises:
            UsageError: the strategy is not solved from features, or a name is unknown.
            ZooError: no worker can begin.
        """
        self._slots = self._workers.slots  # an engine starts when it is asked for them
        first = next((task for task in self._tasks if "fit" in task.parts), self._tasks[0])
        try:
            found = self._workers.ask({**self._request(first), "engine": None})
        except WorkerFailed as failure:
            raise (failure.kind or ZooError)(failure.reason, hint=failure.hint) from failure
        self.engine = found["engine"]
        self._progress.note(f"engine {self.engine['name']} ({self.engine['reason']})")
        images = sum(
            len(shard.indices) for task in self._tasks for role, shard in task.parts.items() if USES[role] != "checked"
        )
        return images * int(found["bytes"]) + NOTES * sum(task.count for task in self._tasks)

    def carry_out(self) -> None:
        """Have every shard computed; a shard that fails leaves the others as they are.

        Raises:
            DiskFull: the store has no room for more.
            ZooError: the engine that asks the workers is gone.
        """
        slots = self._slots
        self._progress.start("features", sum(task.count for task in self._tasks))
        pool = ThreadPoolExecutor(slots, thread_name_prefix="shard")
        waiting = iter(self._tasks)
        running: dict[Future[dict[str, Any]], _Task] = {}
        try:
            while True:
                while len(running) < slots and (task := next(waiting, None)) is not None:
                    running[pool.submit(self._ask, task)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._take(running.pop(future), future.result)
        except DiskFull as error:
            raise DiskFull(
                f"{error.message}; {self.finished_text()}",
                hint="make room, set `ZOO_CACHE_BUDGET` to more, or `ZOO_CACHE` to a folder that can be written; then "
                "run the same command again",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if running:
                self._workers.stop()
            pool.shutdown(wait=True)

    def _request(self, task: _Task) -> dict[str, Any]:
        state = [task.state.size, task.state.changed]
        return {**self._shared, "file": task.file, "uses": task.uses(), "state": state}

    def _ask(self, task: _Task) -> dict[str, Any]:
        return self._workers.ask({**self._request(task), "engine": self.engine})

    def _take(self, task: _Task, result: Callable[[], dict[str, Any]]) -> None:
        """Count the answer of a worker, or note that it failed."""
        try:
            answer = result()
        except WorkerFailed as failure:
            self._failed.append((task.file, failure.reason, failure.hint))
            self._progress.warn(f"`{task.file}` has no features: {failure.reason}")
        else:
            names = {
                offset: index
                for role, shard in task.parts.items()
                for offset, index in zip(shard.ranges.offsets.tolist(), ((role, at) for at in shard.indices.tolist()))
            } if answer["bad"] else {}  # fmt: skip
            for offset, reason in answer.pop("bad"):
                role, index = names[offset]
                self._bad.append(BadFile(self._parts[role].samples[index].id, reason))
            self._answers.append(answer)
        self._progress.advance(task.count)

    def finished_text(self) -> str:
        """How many shards are finished."""
        return f"{len(self._answers):,} of {counted(len(self._tasks), 'shard')} have their features"

    def report(self, rejected: Sequence[BadFile]) -> None:
        """Say which images are left out.

        Raises:
            ZooError: a shard has no features.
        """
        self._bad = [*rejected, *self._bad]
        if self._bad:
            shown = "".join(f"\n  {one.id}: {one.reason}" for one in self._bad[:SHOWN])
            more = f"\n  and {len(self._bad) - SHOWN:,} more" if len(self._bad) > SHOWN else ""
            what = counted(len(self._bad), "image is left out", "images are left out")
            self._progress.warn(f"{what}:{shown}{more}")
        if self._failed:
            file, reason, hint = self._failed[0]
            others = f", nor do {len(self._failed) - 1:,} others" if len(self._failed) > 1 else ""
            raise ZooError(
                f"`{file}` has no features{others}: {reason}; {self.finished_text()}",
                hint=hint or "run the same command again: it computes those that are missing",
            )

    def sums(self) -> dict[str, Any]:
        """What the workers have answered, over all shards."""
        found = self._answers
        return {
            "computed": sum(one["computed"] for one in found),
            "kept": sum(one["kept"] for one in found),
            "computed_shards": sum(one["computed"] > 0 for one in found),
            "bad": tuple(self._bad),
            "doubtful": sum(one["doubtful"] for one in found),
            "core_seconds": round(sum(one["core_seconds"] for one in found), 2),
            "peak_memory": max((one["peak_memory"] for one in found), default=0),
        }
