"""Trials are carried out by an executor; the folder of a trial is the truth about it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo import Experiment, Plugins, Results, Study, ZooError, study, train
from zoo.errors import DiskFull
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.executor import LOG, LocalProcess, LocalProcesses
from zoo.studies.results import COSTS_FILE
from zoo.studies.trial import Trial, TrialResult, TrialState, result_of_folder
from zoo.system.worker_process import WorkerFailed

SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu", "epochs": 1}


class Threads:
    """An executor of several trials at a time, which only pretends to train; seed 2 fails."""

    def __init__(self, slots: int, results: Path) -> None:
        self.slots = slots
        self.results = results
        self.order: list[str] = []
        self.most = 0
        self.cancelled = False
        self._busy = 0
        self._submitted: list[Future[TrialResult]] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(slots)
        self._together = threading.Barrier(slots)

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        assert folder.name == trial.name and experiment.seed == trial.seed
        assert sum(not one.done() for one in self._submitted) < self.slots
        self.order.append(trial.name)
        self._submitted.append(self._pool.submit(self._run, trial))
        return self._submitted[-1]

    def _run(self, trial: Trial) -> TrialResult:
        with self._lock:
            self._busy += 1
            self.most = max(self.most, self._busy)
        self._together.wait(timeout=30)  # nobody ends before all slots are busy
        with self._lock:
            self._busy -= 1
        if trial.seed == 2:
            return TrialResult(trial=trial, state=TrialState.FAILED, failure="out of luck", hint="try again")
        return TrialResult(trial=trial, state=TrialState.FINISHED, seconds=1.0, metrics={"accuracy": None})

    def cancel(self) -> None:
        self.cancelled = True
        self._pool.shutdown()


def folder_of(tmp_path: Path, spec: Study, configurations: list[str]) -> Path:
    folder = tmp_path / "s"
    folder.mkdir()
    cost = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x").to_json()
    (folder / COSTS_FILE).write_text(json.dumps(dict.fromkeys(configurations, cost)))
    record = {"schema": 1, "study": json.loads(json.dumps(spec.to_json())), "status": "running", "trials": 0}
    (folder / "study.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_an_executor_gets_as_many_trials_as_it_has_slots(slots: int, two_splits: Path, tmp_path: Path) -> None:
    spec = Study(
        data=str(two_splits), backbones=("timm/test_resnet",), strategies=("full", "partial:1"), seeds=(0, 1, 2, 3),
        settings=SETTINGS, test=False,
    )  # fmt: skip
    folder = folder_of(tmp_path, spec, ["timm/test_resnet full", "timm/test_resnet partial:1"])
    executor = Threads(slots, folder)
    with pytest.raises(ZooError, match="is not a run"):  # nothing was trained, so that nothing can be compared
        study(folder, executor=executor)
    assert executor.most == slots and executor.cancelled
    results = Results.open(folder)
    assert sorted(executor.order) == sorted(result.name for result in results.outcomes) and len(executor.order) == 8
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 8  # one writer, one line each
    failed = [result for result in results.outcomes if result.state is TrialState.FAILED]
    assert {result.trial.seed for result in failed} == {2} and all(result.hint == "try again" for result in failed)


class OneWaits(Threads):
    """The first trial ends only when the third has begun, as a slot that is free takes the next trial at once."""

    def __init__(self, slots: int, results: Path) -> None:
        super().__init__(slots, results)
        self.third = threading.Event()

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        future = super().submit(trial, experiment, folder, tuned)
        if len(self.order) == 3:
            self.third.set()
        return future

    def _run(self, trial: Trial) -> TrialResult:
        if trial.name == self.order[0]:
            in_time = self.third.wait(timeout=10)
            return TrialResult(trial=trial, state=TrialState.FAILED, failure="a slot was free" if in_time else "waited")
        return TrialResult(trial=trial, state=TrialState.FAILED, failure="out of luck")


def test_a_slot_that_is_free_takes_the_next_trial_while_others_are_busy(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = Study(
        data=str(two_splits), backbones=("timm/test_resnet",), strategies=("full",), seeds=(0, 1, 2),
        settings=SETTINGS, test=False,
    )  # fmt: skip
    folder = folder_of(tmp_path, spec, ["timm/test_resnet full"])
    executor = OneWaits(2, folder)
    found = study(folder, executor=executor, plugins=plugins)
    assert sorted(result.failure for result in found.outcomes) == [
        "a slot was free", "out of luck", "out of luck",
    ]  # fmt: skip


def test_the_worker_of_this_machine_ends_with_the_study_whoever_trains(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exports, searches and scores beside every executor."""
    spec = Study(
        data=str(two_splits), backbones=("timm/test_resnet",), strategies=("full",), seeds=(2,),
        settings=SETTINGS, test=False,
    )  # fmt: skip
    folder = folder_of(tmp_path, spec, ["timm/test_resnet full"])
    cancelled: list[LocalProcess] = []
    monkeypatch.setattr(LocalProcess, "cancel", lambda self: cancelled.append(self))
    study(folder, executor=Threads(1, folder), plugins=plugins)
    assert len(cancelled) == 1


def test_what_is_cancelled_before_it_began_is_never_trained(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(backbone="timm/test_resnet", strategy="full", seed=0, fraction=1.0)
    experiment = Experiment(data=str(two_splits), backbone=trial.backbone, strategy="full", **SETTINGS)  # type: ignore[arg-type]
    executor = LocalProcess()
    begun, end, dropped = threading.Event(), threading.Event(), threading.Event()

    def dying(do: str, **request: Any) -> dict[str, Any]:
        begun.set()
        end.wait(timeout=60)
        raise WorkerFailed("its process was killed by SIGKILL", log="first\n" + "x" * LOG + "last")

    monkeypatch.setattr(executor, "ask", dying)
    first, second = (executor.submit(trial, experiment, tmp_path / name) for name in ("first", "second"))
    assert begun.wait(timeout=60)
    second.add_done_callback(lambda _: dropped.set())
    stopper = threading.Thread(target=executor.cancel)
    stopper.start()
    dropped.wait(timeout=10)
    end.set()
    stopper.join(timeout=60)
    assert second.cancelled()
    log = first.result().log  # its end is what tells why it failed
    assert len(log) == LOG and log.endswith("xlast")


def test_a_trial_that_has_no_worker_yet_gets_none_once_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, made = LocalProcess(), []
    monkeypatch.setattr("zoo.studies.executor.WorkerProcess", lambda *_, **__: made.append(1))

    def shutdown(**_: bool) -> None:  # the moment at which a trial of the thread would ask for its worker
        with pytest.raises(WorkerFailed, match="cancelled"):
            executor.ask("train")

    executor._thread = SimpleNamespace(shutdown=shutdown)  # type: ignore[assignment]
    executor.cancel()
    assert not made
    with pytest.raises(AttributeError):  # afterwards it may be used again
        executor.ask("train")
    assert made


def test_results_survive_the_file() -> None:
    trial = Trial(backbone="timm/test_resnet", strategy="partial:1", seed=1, fraction=0.5)
    for result in (
        TrialResult(trial=trial, state=TrialState.FINISHED, seconds=2.0, core_seconds=3.0, metrics={"accuracy": 0.5}),
        TrialResult(trial=trial, state=TrialState.FINISHED, metrics={"accuracy": None}, tuned={"lr": 0.1}),
        TrialResult(trial=trial, state=TrialState.FAILED, failure="x", hint="y", log="z"),
        TrialResult(trial=trial, state=TrialState.REFUSED, failure="too slow"),
    ):
        line = json.loads(json.dumps(result.to_json()))
        assert TrialResult.from_json(line) == result and line["status"] == str(result.state)
    with pytest.raises(ValueError, match="lost"):
        TrialResult.from_json({**line, "status": "lost"})


def test_a_trial_that_finished_before_its_worker_died_is_finished(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(backbone="timm/test_resnet", strategy="full", seed=0, fraction=1.0)
    experiment = Experiment(data=str(two_splits), backbone=trial.backbone, strategy="full", **SETTINGS)  # type: ignore[arg-type]
    folder = tmp_path / trial.name
    executor = LocalProcess()

    def dying(do: str, **request: Any) -> dict[str, Any]:
        raise WorkerFailed("its process was killed by SIGKILL", log="the last words")

    monkeypatch.setattr(executor, "ask", dying)
    lost = executor.submit(trial, experiment, folder).result()
    assert lost.state is TrialState.FAILED and lost.log == "the last words" and result_of_folder(trial, folder) is None
    run = train(experiment, out=folder, plugins=plugins)
    found = executor.submit(trial, experiment, folder, {"lr": 0.1}).result()
    assert found.finished and found.metrics == run.metrics and found.tuned == {"lr": 0.1}
    record = (folder / "run.json").read_text()
    (folder / "run.json").write_text(json.dumps({**json.loads(record), "status": "running"}))  # it is not done yet
    assert executor.submit(trial, experiment, folder).result().state is TrialState.FAILED
    (folder / "run.json").write_text(record)
    assert executor.submit(trial, experiment, folder).result().finished
    (folder / "predictions-val.safetensors").write_bytes(b"damaged")
    assert executor.submit(trial, experiment, folder).result().state is TrialState.FAILED
    executor.cancel()


def test_a_full_disk_is_told_by_its_kind(tmp_path: Path) -> None:
    """The worker's error keeps its type on the way to the session, whatever its words are."""
    executor = LocalProcess()
    try:
        with pytest.raises(WorkerFailed) as error:
            executor.ask("score", run=str(tmp_path), split="val")
        assert error.value.kind is not None and error.value.kind.__name__ == "UsageError"
        worker = executor._worker
        assert worker is not None
        worker.ask = lambda *_, **__: (_ for _ in ()).throw(WorkerFailed("kein Platz", kind=DiskFull))  # type: ignore[method-assign]
        with pytest.raises(DiskFull, match="kein Platz"):
            executor.ask("train")
    finally:
        executor.cancel()


def test_a_worker_stays_with_its_backbone_and_each_trial_has_one(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LocalProcesses(2)
    by: dict[str, set[LocalProcess]] = {"timm/test_resnet": set(), "timm/test_vit": set()}
    together, seen = threading.Barrier(2), []

    def training(self: LocalProcess, do: str, experiment: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        together.wait(timeout=30)
        by[experiment["backbone"]].add(self)
        seen.append(experiment["seed"])
        return {"seconds": 1.0, "metrics": {"accuracy": 1.0}}

    monkeypatch.setattr(LocalProcess, "ask", training)
    for seed in range(3):
        order = list(by) if seed != 1 else list(by)[::-1]  # whoever is idle first is not of the backbone
        trials = [Trial(backbone=name, strategy="full", seed=seed, fraction=1.0) for name in order]
        futures = [
            executor.submit(
                trial,
                Experiment(data=str(two_splits), backbone=trial.backbone, strategy="full", seed=seed, **SETTINGS),  # type: ignore[arg-type]
                tmp_path / trial.name,
            )
            for trial in trials
        ]
        assert all(future.result(timeout=30).finished for future in futures)
    executor.cancel()
    assert [len(workers) for workers in by.values()] == [1, 1] and sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_cancelling_several_workers_drops_what_waits(two_splits: Path, tmp_path: Path, monkeypatch: Any) -> None:
    executor, begun, end = LocalProcesses(2), threading.Semaphore(0), threading.Event()

    def dying(self: LocalProcess, do: str, **_: Any) -> dict[str, Any]:
        begun.release()
        end.wait(timeout=60)
        raise WorkerFailed("its process was killed by SIGKILL")

    monkeypatch.setattr(LocalProcess, "ask", dying)
    futures = []
    for seed in range(4):
        trial = Trial(backbone="timm/test_resnet", strategy="full", seed=seed, fraction=1.0)
        experiment = Experiment(data=str(two_splits), backbone=trial.backbone, strategy="full", **SETTINGS)  # type: ignore[arg-type]
        futures.append(executor.submit(trial, experiment, tmp_path / trial.name))
    assert begun.acquire(timeout=60) and begun.acquire(timeout=60)
    monkeypatch.setattr(LocalProcess, "cancel", lambda self: end.set())
    executor.cancel()
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert all(future.result().state is TrialState.FAILED for future in futures[:2])
