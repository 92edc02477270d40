"""Weights & Biases: a run with its configuration, curves, tables and files, kept offline unless the user asks."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

# Before W&B is imported: it would report its own errors to its makers
os.environ["WANDB_ERROR_REPORTING"] = "false"

import wandb

from zoo.callback import CURVES, EpochEnded, Evaluated, Event, FileWritten, RunEnded, RunStarted

# Seconds for the server's answer when a run begins; below the limit of the callback
ANSWER = 60


class WeightsAndBiases:
    """Logs a run: configuration, curves by epoch, final figures, confusion matrix, files.

    Args:
        project: Name of the project.
        online: Whether the run is sent to the server. Otherwise `wandb sync` can do that later.
        entity: User or team. Empty: the user's own.
        weights: Whether the file of weights is logged.
    """

    def __init__(self, project: str, online: bool, entity: str, weights: bool) -> None:
        self._project, self._online, self._entity, self._weights = project, online, entity, weights
        self._folder = Path()

    def __call__(self, event: Event) -> dict[str, Any] | None:
        match event:
            case RunStarted():
                return self._start(event)
            case EpochEnded():
                # `commit`, or the step would wait for the next one, and be lost where the run is killed
                self._run.log({"epoch": event.number, **event.figures}, step=event.number, commit=True)
            case Evaluated():
                self._evaluated(event)
            case FileWritten():
                if event.kind != "weights" or self._weights:
                    self._run.save(str(event.file), base_path=str(self._folder), policy="now")
            case RunEnded():
                self._run.summary["status"] = event.status
                self._run.finish(exit_code=0 if event.status == "finished" else 1)
        return None

    def _start(self, event: RunStarted) -> dict[str, Any]:
        self._folder = event.folder
        folder = event.folder / "callbacks"
        folder.mkdir(exist_ok=True)
        run = event.kept.get("run") or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=self._project,
            entity=self._entity or None,
            id=run,
            resume="allow" if self._online else None,  # offline, the same id is all that it takes
            mode="online" if self._online else "offline",
            dir=str(folder),
            name=event.name,
            group=event.group,
            config=event.settings,
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                x_disable_meta=True,  # such as the command line
                x_disable_stats=True,
                init_timeout=ANSWER,
            ),
        )
        self._run.define_metric("epoch")
        for name in CURVES:
            self._run.define_metric(name, step_metric="epoch")
        where = str(self._run.url) if self._online else f"`wandb sync {folder}/wandb/offline-run-*` sends it to W&B"
        return {"run": run, "where": where}

    def _evaluated(self, event: Evaluated) -> None:
        for name, value in event.figures.items():
            self._run.summary[f"{event.split}/{name}"] = value
        cells = [
            [true, predicted, count]
            for true, counts in zip(event.classes, event.confusion)
            for predicted, count in zip(event.classes, counts)
            if count
        ]
        table = wandb.Table(columns=["true class", "predicted class", "images"], data=cells)
        self._run.log({f"confusion on {event.split}": table})
