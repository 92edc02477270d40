"""Trials are carried out by an executor; the folder of a trial is the truth about it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from zoo import Experiment, Plugins, Results, Study, ZooError, study, train
from zoo.errors import DiskFull
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.executor import LocalProcess
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
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(slots)
        self._together = threading.Barrier(slots)

    def submit(
        self, trial: Trial, experiment: Experiment, folder: Path, tuned: Mapping[str, Any] | None = None
    ) -> Future[TrialResult]:
        assert folder.name == trial.name and experiment.seed == trial.seed
        self.order.append(trial.name)
        return self._pool.submit(self._run, trial)

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
    with pytest.raises(ZooError, match="is no run"):  # nothing was trained, so that nothing can be compared
        study(folder, executor=executor)
    assert executor.most == slots and executor.cancelled
    results = Results.open(folder)
    assert sorted(executor.order) == sorted(result.name for result in results.outcomes) and len(executor.order) == 8
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 8  # one writer, one line each
    failed = [result for result in results.outcomes if result.state is TrialState.FAILED]
    assert {result.trial.seed for result in failed} == {2} and all(result.hint == "try again" for result in failed)


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
