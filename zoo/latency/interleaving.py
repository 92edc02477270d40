"""Contest: contenders are loaded one by one, warmed up one by one, and then take turns in random order."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.latency.report import LEAST_FLOOR, P99_CALLS, Measurement, Outcome, Turns, apart, estimate, floor_of
from zoo.latency.subject import Subject
from zoo.runtime import Input
from zoo.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "zoo.latency.worker:LatencyWorker"

ROUNDS = 10  # turns of each contender per batch size; intervals rest on their number
MIN_ROUNDS = 5  # for networks so slow that ten calls exceed the budget
MAX_CALLS = 200  # a turn: more of them tell nothing new about the next turn
WARM_SHARE = 0.75  # of a contender's seconds: how long it may warm up before it is timed, steady or not
LEAD_IN_CALLS = 4  # a turn of fewer calls begins without an untimed one, which would cost too much of the budget

ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class InterleavedResult:
    """What came of it."""

    outcomes: list[Outcome]
    others: float  # processors that other processes kept busy, on average, while someone had a turn
    noise_floor: dict[int, float]  # by batch size; empty where it was not measured


@dataclass
class _Seat:
    """A contender in its process, and what has been learnt of it so far."""

    contender: Subject
    worker: WorkerProcess
    loaded: dict[str, Any]
    warmed: dict[int, dict[str, Any]] = field(default_factory=dict)
    turns: dict[int, list[list[float]]] = field(default_factory=dict)
    timed: dict[int, list[float]] = field(default_factory=dict)  # seconds from the first call of a turn to the last
    device_memory: dict[int, int] = field(default_factory=dict)
    wall: float = 0.0  # seconds of its turns
    others: float = 0.0  # seconds that processors computed for other processes meanwhile
    restless: bool = False
    failure: WorkerFailed | None = None

    def out(self, failure: WorkerFailed) -> None:
        self.failure = failure
        self.worker.close()


def run_interleaved(
    contenders: Sequence[Subject],
    *,
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int = ROUNDS,
    callers: int = 1,
    noise_floor: bool = True,
    on_progress: ReportLine = lambda line: None,
) -> InterleavedResult:
    """Measure every contender at every batch size; see `docs/explanation/latency.md` for the method.

    One contender computes at any time. Whatever ends this function, no worker outlives it. With `noise_floor` the one
    that is fastest when warm has a twin, a second process of the same, that takes turns as well.
    """
    found: dict[int, Outcome] = {}
    seats: dict[int, _Seat] = {}
    with contextlib.ExitStack() as stack:
        for number, contender in enumerate(contenders):
            on_progress(f"{contender.name}: loading")
            worker = stack.enter_context(WorkerProcess(WORKER, threads=contender.workload.threads))
            try:
                seats[number] = _Seat(contender, worker, _load(worker, contender))
            except WorkerFailed as failure:
                worker.close()
                found[number] = _failed(contender, failure)
        for seat in seats.values():
            _warm_up(seat, batch_sizes, seconds, callers, on_progress)
        ready = [seat for seat in seats.values() if seat.failure is None]
        twins: list[tuple[_Seat, _Seat]] = []
        if noise_floor and len(ready) > 1:
            first = min(ready, key=lambda seat: float(seat.warmed[batch_sizes[0]]["median"]))
            twin = _twin(stack, first, on_progress)
            if twin is not None:
                _warm_up(twin, batch_sizes, seconds, callers, on_progress)
                twins = [(first, twin)] if twin.failure is None else []
        _take_turns([*ready, *(twin for _, twin in twins)], batch_sizes, seconds, rounds, on_progress)
    floors = {
        size: floor_of(np.asarray(seat.turns[size]), np.asarray(twin.turns[size]))
        for seat, twin in twins
        for size in batch_sizes
        if seat.failure is None and twin.failure is None
    }
    for number, outcome in zip(seats, _outcomes(list(seats.values()), batch_sizes, floors)):
        found[number] = outcome
    wall = sum(seat.wall for seat in seats.values())
    others = sum(seat.others for seat in seats.values()) / wall if wall else 0.0
    return InterleavedResult([found[number] for number in sorted(found)], others, floors)


def _twin(stack: contextlib.ExitStack, seat: _Seat, on_progress: ReportLine) -> _Seat | None:
    """The same contender in a second process; None where that cannot be had."""
    contender = seat.contender
    on_progress(f"{contender.name}: loading once more, for the noise floor")
    worker = stack.enter_context(WorkerProcess(WORKER, threads=contender.workload.threads))
    try:
        return _Seat(contender, worker, _load(worker, contender))
    except WorkerFailed:  # of memory, for instance; the contest goes on without
        worker.close()
        return None


def _warm_up(seat: _Seat, batch_sizes: Sequence[int], seconds: float, callers: int, on_progress: ReportLine) -> None:
    for size in batch_sizes:
        on_progress(f"{seat.contender.name}: warming up, batch {size}")
        try:
            answer = seat.worker.ask("warm", batch=size, seconds=WARM_SHARE * seconds, callers=callers)
        except WorkerFailed as failure:
            seat.out(failure)
            return
        seat.warmed[size] = answer
        _keep(seat, size, answer)


def _take_turns(
    seats: Sequence[_Seat], batch_sizes: Sequence[int], seconds: float, rounds: int, on_progress: ReportLine
) -> None:
    """Rounds in which every contender has one turn at every batch size, in an order drawn anew each time.

    All contenders have as many turns at a batch size, so that turns of one round can be compared.
    """
    if not seats:
        return
    count = {
        size: max(
            min(rounds, MIN_ROUNDS), min(rounds, int(seconds / max(seat.warmed[size]["median"] for seat in seats)))
        )
        for size in batch_sizes
    }
    order = random.Random(0)  # the same order every time: what is left to chance is the machine
    for turn in range(max(count.values())):
        on_progress(f"round {turn + 1} of {max(count.values())}")
        pairs = [(seat, size) for seat in seats for size in batch_sizes if turn < count[size]]
        order.shuffle(pairs)
        for seat, size in pairs:
            if seat.failure is None:
                _take_turn(seat, size, seconds / count[size])


def _take_turn(seat: _Seat, size: int, seconds: float) -> None:
    calls = min(max(math.ceil(seconds / seat.warmed[size]["median"]), 1), MAX_CALLS)
    try:
        answer = seat.worker.ask("turn", batch=size, calls=calls, lead_in=int(calls >= LEAD_IN_CALLS))
    except WorkerFailed as failure:
        seat.out(failure)
        return
    seat.turns.setdefault(size, []).append(answer["seconds"])
    seat.timed.setdefault(size, []).append(answer["timed"])
    seat.wall += answer["wall"]
    seat.others += answer["others"]
    _keep(seat, size, answer)


def _keep(seat: _Seat, size: int, answer: dict[str, Any]) -> None:
    if answer["device_memory"] is not None:
        seat.device_memory[size] = max(seat.device_memory.get(size, 0), answer["device_memory"])
    seat.restless = seat.restless or not answer["quiet"]


def _outcomes(seats: Sequence[_Seat], batch_sizes: Sequence[int], floors: dict[int, float]) -> list[Outcome]:
    measured = [seat for seat in seats if seat.failure is None]
    measurements: dict[int, list[Measurement]] = {id(seat): [] for seat in measured}
    for size in batch_sizes if measured else ():
        turns = {id(seat): np.asarray(seat.turns[size], np.float64) for seat in measured}
        fastest = min(turns.values(), key=lambda taken: float(np.median(taken)))
        for seat in measured:
            measurements[id(seat)].append(_measurement(seat, size, turns[id(seat)], fastest, floors.get(size, 0.0)))
    outcomes = []
    for seat in seats:
        described = _described(seat)
        if seat.failure is not None:
            outcomes.append(_failed(seat.contender, seat.failure, **described))
        else:
            outcomes.append(seat.contender.outcome("measured", measurements=tuple(measurements[id(seat)]), **described))
    return outcomes


def _measurement(seat: _Seat, size: int, turns: Turns, fastest: Turns, floor: float) -> Measurement:
    warmed = seat.warmed[size]
    figures = estimate(turns, fastest, np.asarray(seat.timed[size]), size)
    notes = []
    if not warmed["steady"]:
        notes.append(f"not steady after {warmed['calls']} calls of warm-up")
    if turns.size < P99_CALLS:
        notes.append(f"p99 rests on {turns.size} calls, so that it is little more than the slowest")
    if not warmed["memory_exact"]:
        notes.append("memory includes that of loading")
    return Measurement(
        batch_size=size,
        calls=turns.size,
        p50=figures.p50,
        p90=figures.p90,
        p99=figures.p99,
        images_per_second=figures.images_per_second,
        fastest=turns is fastest,
        told_apart=turns is not fastest and apart(turns, fastest, max(floor, LEAST_FLOOR)),
        ratio=figures.ratio,
        memory=warmed["memory"],
        device_memory=seat.device_memory.get(size),
        first_call=warmed["first"],
        warmup_calls=warmed["calls"],
        notes=tuple(notes),
        turns=turns,
    )


def _described(seat: _Seat) -> dict[str, Any]:
    """What the session said of itself, as fields of an outcome."""
    said = [*seat.loaded["notes"], *(note for warmed in seat.warmed.values() for note in warmed["notes"])]
    if seat.restless:
        said.append("its threads went on computing between turns, which disturbs the others")
    given = {**seat.loaded["input"], "shape": tuple(seat.loaded["input"]["shape"])}
    return {
        "provider": seat.loaded["provider"],
        "input": str(Input(**given)),
        "load_seconds": seat.loaded["seconds"],
        "notes": tuple(dict.fromkeys(said)),
    }


def _failed(contender: Subject, failure: WorkerFailed, **described: Any) -> Outcome:
    return contender.outcome("failed", reason=failure.reason, hint=failure.hint, log=failure.log, **described)


def _load(worker: WorkerProcess, contender: Subject) -> dict[str, Any]:
    """Open the session in the worker."""
    workload = {**asdict(contender.workload), "target": str(contender.workload.target)}
    return worker.ask("load", target=contender.entry.value.load, workload=workload)
