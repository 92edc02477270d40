"""A small study, and an engine that carries out its trials as another machine would."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zoo import Plugins, Study
from zoo.studies import remote_trial, running
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.executor import LocalProcess
from zoo.studies.remote_executor import RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out
from zoo.studies.results import COSTS_FILE
from zoo.studies.trial_worker import TrialWorker

SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu", "epochs": 1, "precision": "fp32"}
CONFIGURATION = "timm/test_resnet partial:1"


def work_in_process(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    """Have what a worker's process does done in this one: a process needs seconds to import torch."""
    worker = TrialWorker()
    worker.plugins = plugins

    def ask(self: LocalProcess, do: str, **request: Any) -> dict[str, Any]:
        found: dict[str, Any] = getattr(worker, do)(**request)
        return found

    monkeypatch.setattr(LocalProcess, "ask", ask)
    monkeypatch.setattr(remote_trial, "check_session", partial(running.check_session, wait=0.0))


class Engine(RemoteExecutor):
    """An engine that runs the function in this process, and may lose its answer or ask for other things."""

    def __init__(self, plugins: Plugins, **changes: Any) -> None:
        super().__init__(plugins=plugins)
        self.changes = changes
        self.asked: list[dict[str, Any]] = []
        self.lose = False

    def run_once(self, request: dict[str, Any]) -> dict[str, Any]:
        request = json.loads(json.dumps({**request, **self.changes}))  # what goes over a network
        self.asked.append(request)
        answer: dict[str, Any] = json.loads(json.dumps(carry_out(request)))
        if self.lose:
            raise TrialLost("its process or its machine is gone")
        return answer

    def stop(self) -> None:
        for process in remote_trial._processes.values():
            process.cancel()


def asked(data: Path, seeds: tuple[int, ...] = (0,)) -> Study:
    return Study(
        data=str(data), backbones=("timm/test_resnet",), strategies=("partial:1",), seeds=seeds, settings=SETTINGS,
        test=False,
    )  # fmt: skip


def weighed(folder: Path, spec: Study) -> Path:
    folder.mkdir()
    cost = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x").to_json()
    (folder / COSTS_FILE).write_text(json.dumps({CONFIGURATION: cost}))
    record = {"schema": 1, "study": json.loads(json.dumps(spec.to_json())), "status": "running", "trials": 1}
    (folder / "study.json").write_text(json.dumps(record))
    return folder
