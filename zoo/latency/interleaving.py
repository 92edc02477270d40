"""Interleaving: subjects are measured in rounds of random order, so that a change of the machine affects all alike.

Subjects are loaded one after another, then warmed up one after another. In each round every subject is then measured
once at every batch size. The calls that it makes in a row are a measurement slot.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.errors import counted
from zoo.latency.report import (
    LEAST_FLOOR,
    P99_CALLS,
    CallSeconds,
    Measurement,
    Outcome,
    estimate,
    is_slower,
    noise_floor_between,
)
from zoo.latency.subject import Subject
from zoo.runtime import Input
from zoo.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "zoo.latency.worker:LatencyWorker"

ROUNDS = 10  # slots of each subject per batch size; the intervals are computed from these slots
MIN_ROUNDS = 5  # for networks so slow that ten calls exceed the budget
MAX_CALLS = 200  # per slot; more calls say nothing new about the next slot
WARM_SHARE = 0.75  # of a subject's budget of seconds: the longest warm-up, even if times are not steady by then
LEAD_IN_CALLS = 4  # a slot of fewer calls has no untimed first call, which would take too much of the budget

ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class InterleavedResult:
    """Outcomes of all subjects, and how busy and how noisy the machine was."""

    outcomes: list[Outcome]
    others: float  # processors that other processes kept busy during the slots, on average
    noise_floor: dict[int, float]  # by batch size; empty where it was not measured


@dataclass
class _LoadedSubject:
    """A subject in its worker process, and everything measured so far; dictionaries are by batch size."""

    subject: Subject
    worker: WorkerProcess
    opened: dict[str, Any]  # the worker's answer to `load`
    warmed: dict[int, dict[str, Any]] = field(default_factory=dict)  # its answers to `warm`
    call_seconds: dict[int, list[list[float]]] = field(default_factory=dict)  # a list for each slot
    slot_seconds: dict[int, list[float]] = field(default_factory=dict)  # from first call to end of last, of each slot
    device_memory: dict[int, int] = field(default_factory=dict)
    wall: float = 0.0  # seconds of all its slots
    others: float = 0.0  # processor seconds that other processes used during its slots
    kept_computing: bool = False  # whether its threads computed on between slots
    failure: WorkerFailed | None = None

    def fail(self, failure: WorkerFailed) -> None:
        """Note the failure and end the worker process."""
        self.failure = failure
        self.worker.close()


def run_interleaved(
    subjects: Sequence[Subject],
    *,
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int = ROUNDS,
    callers: int = 1,
    noise_floor: bool = True,
    on_progress: ReportLine = lambda line: None,
) -> InterleavedResult:
    """Measure every subject at every batch size; `docs/explanation/latency.md` explains the method.

    Only one subject computes at any time. Every worker process has ended when this function returns or raises.

    Args:
        subjects: a subject that fails becomes an outcome with status `failed`.
        batch_sizes: images per call.
        seconds: budget of timed calls for each subject and batch size.
        rounds: how often each subject is measured per batch size, at most.
        callers: how many threads call at once.
        noise_floor: also measure a twin: a second process of the subject that is fastest after warm-up.
        on_progress: called with a line of text before each step.
    """
    found: dict[int, Outcome] = {}
    loaded: dict[int, _LoadedSubject] = {}
    with contextlib.ExitStack() as stack:
        for number, subject in enumerate(subjects):
            on_progress(f"{subject.name}: loading")
            worker = stack.enter_context(WorkerProcess(WORKER, threads=subject.workload.threads))
            try:
                loaded[number] = _LoadedSubject(subject, worker, _load(worker, subject))
            except WorkerFailed as failure:
                worker.close()
                found[number] = _failed(subject, failure)
        for one in loaded.values():
            _warm_up(one, batch_sizes, seconds, callers, on_progress)
        ready = [one for one in loaded.values() if one.failure is None]
        twins: list[tuple[_LoadedSubject, _LoadedSubject]] = []
        if noise_floor and len(ready) > 1:
            first = min(ready, key=lambda one: float(one.warmed[batch_sizes[0]]["median"]))
            twin = _twin(stack, first, on_progress)
            if twin is not None:
                _warm_up(twin, batch_sizes, seconds, callers, on_progress)
                twins = [(first, twin)] if twin.failure is None else []
        _measure_rounds([*ready, *(twin for _, twin in twins)], batch_sizes, seconds, rounds, on_progress)
    floors = {
        size: noise_floor_between(np.asarray(one.call_seconds[size]), np.asarray(twin.call_seconds[size]))
        for one, twin in twins
        for size in batch_sizes
        if one.failure is None and twin.failure is None
    }
    for number, outcome in zip(loaded, _outcomes(list(loaded.values()), batch_sizes, floors)):
        found[number] = outcome
    wall = sum(one.wall for one in loaded.values())
    others = sum(one.others for one in loaded.values()) / wall if wall else 0.0
    return InterleavedResult([found[number] for number in sorted(found)], others, floors)


def _twin(stack: contextlib.ExitStack, loaded: _LoadedSubject, on_progress: ReportLine) -> _LoadedSubject | None:
    """The same subject in a second process; None where it cannot be loaded again."""
    subject = loaded.subject
    on_progress(f"{subject.name}: loading a second process, for the noise floor")
    worker = stack.enter_context(WorkerProcess(WORKER, threads=subject.workload.threads))
    try:
        return _LoadedSubject(subject, worker, _load(worker, subject))
    except WorkerFailed:  # out of memory, for instance; the subjects are measured without a noise floor
        worker.close()
        return None


def _warm_up(
    loaded: _LoadedSubject, batch_sizes: Sequence[int], seconds: float, callers: int, on_progress: ReportLine
) -> None:
    for size in batch_sizes:
        on_progress(f"{loaded.subject.name}: warming up, batch {size}")
        try:
            answer = loaded.worker.ask("warm", batch=size, seconds=WARM_SHARE * seconds, callers=callers)
        except WorkerFailed as failure:
            loaded.fail(failure)
            return
        loaded.warmed[size] = answer
        _note_memory(loaded, size, answer)


def _measure_rounds(
    subjects: Sequence[_LoadedSubject],
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int,
    on_progress: ReportLine,
) -> None:
    """Measure every subject once per round at every batch size, in a new random order for each round.

    All subjects have the same number of slots at a batch size, so that slots of one round can be compared.
    """
    if not subjects:
        return
    count = {
        size: max(
            min(rounds, MIN_ROUNDS), min(rounds, int(seconds / max(one.warmed[size]["median"] for one in subjects)))
        )
        for size in batch_sizes
    }
    order = random.Random(0)  # the same order in every measurement, so that only the machine varies
    for number in range(max(count.values())):
        on_progress(f"round {number + 1} of {max(count.values())}")
        slots = [(one, size) for one in subjects for size in batch_sizes if number < count[size]]
        order.shuffle(slots)
        for one, size in slots:
            if one.failure is None:
                _measure_slot(one, size, seconds / count[size])


def _measure_slot(loaded: _LoadedSubject, size: int, seconds: float) -> None:
    calls = min(max(math.ceil(seconds / loaded.warmed[size]["median"]), 1), MAX_CALLS)
    try:
        answer = loaded.worker.ask("measure", batch=size, calls=calls, lead_in=int(calls >= LEAD_IN_CALLS))
    except WorkerFailed as failure:
        loaded.fail(failure)
        return
    loaded.call_seconds.setdefault(size, []).append(answer["seconds"])
    loaded.slot_seconds.setdefault(size, []).append(answer["timed"])
    loaded.wall += answer["wall"]
    loaded.others += answer["others"]
    _note_memory(loaded, size, answer)


def _note_memory(loaded: _LoadedSubject, size: int, answer: dict[str, Any]) -> None:
    """Note the device memory that an answer reports, and whether the process came to rest after it."""
    if answer["device_memory"] is not None:
        loaded.device_memory[size] = max(loaded.device_memory.get(size, 0), answer["device_memory"])
    loaded.kept_computing = loaded.kept_computing or not answer["quiet"]


def _outcomes(loaded: Sequence[_LoadedSubject], batch_sizes: Sequence[int], floors: dict[int, float]) -> list[Outcome]:
    measured = [one for one in loaded if one.failure is None]
    measurements: dict[int, list[Measurement]] = {id(one): [] for one in measured}
    for size in batch_sizes if measured else ():
        times = {id(one): np.asarray(one.call_seconds[size], np.float64) for one in measured}
        fastest = min(times.values(), key=lambda taken: float(np.median(taken)))
        for one in measured:
            measurements[id(one)].append(_measurement(one, size, times[id(one)], fastest, floors.get(size, 0.0)))
    outcomes = []
    for one in loaded:
        reported = _reported(one)
        if one.failure is not None:
            outcomes.append(_failed(one.subject, one.failure, **reported))
        else:
            outcomes.append(one.subject.outcome("measured", measurements=tuple(measurements[id(one)]), **reported))
    return outcomes


def _measurement(
    loaded: _LoadedSubject, size: int, times: CallSeconds, fastest: CallSeconds, floor: float
) -> Measurement:
    warmed = loaded.warmed[size]
    figures = estimate(times, fastest, np.asarray(loaded.slot_seconds[size]), size)
    notes = []
    if not warmed["steady"]:
        notes.append(f"times were not steady after {counted(warmed['calls'], 'warm-up call')}")
    if times.size < P99_CALLS:
        notes.append(f"p99 rests on {counted(times.size, 'call')} and is little more than the slowest of them")
    if not warmed["memory_exact"]:
        notes.append("memory includes the peak while loading")
    return Measurement(
        batch_size=size,
        calls=times.size,
        p50=figures.p50,
        p90=figures.p90,
        p99=figures.p99,
        images_per_second=figures.images_per_second,
        fastest=times is fastest,
        told_apart=times is not fastest and is_slower(times, fastest, max(floor, LEAST_FLOOR)),
        ratio=figures.ratio,
        memory=warmed["memory"],
        device_memory=loaded.device_memory.get(size),
        first_call=warmed["first"],
        warmup_calls=warmed["calls"],
        notes=tuple(notes),
        call_seconds=times,
    )


def _reported(loaded: _LoadedSubject) -> dict[str, Any]:
    """Provider, input, load time and notes of the session, as fields of an outcome."""
    notes = [*loaded.opened["notes"], *(note for warmed in loaded.warmed.values() for note in warmed["notes"])]
    if loaded.kept_computing:
        notes.append("its threads kept computing between measurements, which slows the other subjects")
    given = {**loaded.opened["input"], "shape": tuple(loaded.opened["input"]["shape"])}
    return {
        "provider": loaded.opened["provider"],
        "input": str(Input(**given)),
        "load_seconds": loaded.opened["seconds"],
        "notes": tuple(dict.fromkeys(notes)),
    }


def _failed(subject: Subject, failure: WorkerFailed, **reported: Any) -> Outcome:
    return subject.outcome("failed", reason=failure.reason, hint=failure.hint, log=failure.log, **reported)


def _load(worker: WorkerProcess, subject: Subject) -> dict[str, Any]:
    """Open the session in the worker."""
    workload = {**asdict(subject.workload), "target": str(subject.workload.target)}
    return worker.ask("load", target=subject.entry.value.load, workload=workload)
