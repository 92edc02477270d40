"""MLflow: a run with its parameters, metrics and artefacts, in a local database or on a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before MLflow is imported: it would tell its makers of each run, and would try for an hour to reach a server
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from zoo.callback import EpochEnded, Evaluated, Event, FileWritten, RunEnded, RunStarted
from zoo.dataset import is_url, without_secret

STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
LONGEST = 500  # characters of a value, which older servers take
AT_ONCE = 100  # parameters or metrics that a server takes in one request


class MLflow:
    """Logs a run: parameters, curves by epoch, final figures, confusion matrix, files.

    Args:
        address: Where to. Empty: MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.
        experiment: Name of the experiment. Empty: that of the study or of the run of folds, else `zoo`.
        weights: Whether the file of weights is logged.
    """

    def __init__(self, address: str, experiment: str, weights: bool) -> None:
        self._asked, self._experiment, self._weights = address, experiment, weights

    def __call__(self, event: Event) -> dict[str, Any] | None:
        match event:
            case RunStarted():
                return self._start(event)
            case EpochEnded():
                self._metrics(event.figures, event.number)
            case Evaluated():
                self._metrics({f"{event.split}/{name}": value for name, value in event.figures.items()}, 0)
                matrix = {"classes": list(event.classes), "confusion": [list(row) for row in event.confusion]}
                self._client.log_dict(self._run, matrix, f"confusion-{event.split}.json")
            case FileWritten():
                if event.kind != "weights" or self._weights:
                    self._client.log_artifact(self._run, str(event.file))
            case RunEnded():
                if event.failure:
                    self._client.set_tag(self._run, "failure", event.failure[:LONGEST])
                self._client.set_terminated(self._run, STATUSES[event.status])
        return None

    def _start(self, event: RunStarted) -> dict[str, Any]:
        address = self._address(event.kept)
        self._client = mlflow.MlflowClient(tracking_uri=address)
        shown = without_secret(address)
        run = self._earlier(event.kept.get("run"))
        if run is None:
            name = self._experiment or event.group or "zoo"
            tags = {"mlflow.source.name": "zoo train", **({"group": event.group} if event.group else {})}
            made = self._client.create_run(self._experiment_id(name), run_name=event.name, tags=tags)
            run = str(made.info.run_id)
            self._run = run
            params = [Param(key, str(value)[:LONGEST]) for key, value in event.settings.items()]
            for start in range(0, len(params), AT_ONCE):
                self._client.log_batch(run, params=params[start : start + AT_ONCE])
            self._client.log_batch(run, tags=[RunTag("zoo.run", str(event.record.get("id")))])
        self._run = run
        return {"run": run, "address": shown, "where": f"run `{run}` in `{shown}`"}

    def _address(self, kept: Mapping[str, Any]) -> str:
        """Where the run is logged to: what is asked for, else where it was begun, else a file in this folder."""
        if isinstance(kept.get("address"), str) and not os.environ.get("MLFLOW_TRACKING_URI"):
            return str(kept["address"])
        asked = self._asked or os.environ.get("MLFLOW_TRACKING_URI", "") or "mlflow.db"
        if asked.endswith(".db") and not is_url(asked):
            return f"sqlite:///{Path(asked).expanduser().resolve()}"
        return asked

    def _earlier(self, run: Any) -> str | None:
        """The run that an earlier session began, set to running. None: there is none, or it was deleted."""
        if not isinstance(run, str):
            return None
        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if found.info.lifecycle_stage == "deleted":
            return None
        self._client.update_run(run, status="RUNNING")
        return run

    def _experiment_id(self, name: str) -> str:
        for _ in range(2):  # another run may make it at the same time
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise RuntimeError(f"experiment `{name}` of MLflow cannot be made or found")

    def _metrics(self, figures: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        found = [Metric(name, value, now, step) for name, value in figures.items()]
        for start in range(0, len(found), AT_ONCE):
            self._client.log_batch(self._run, metrics=found[start : start + AT_ONCE])
