"""The worker of a study: trains, weighs, scores and searches in a process whose end is an outcome like another."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.runs.run import Run


class TrialWorker:
    """Answers the requests of `zoo.studies.runner`. Its process imports torch once for all trials."""

    def __init__(self) -> None:
        from zoo.plugin import Plugins

        self.plugins = Plugins()

    def train(self, experiment: dict[str, Any], folder: str) -> dict[str, Any]:
        """Train into `folder`, or go on there with what was stopped; a finished run is returned as it is.

        What is damaged there, or failed, is replaced: the folder is the study's own.
        """
        from zoo.training.session import resume, train

        path, began = Path(folder), time.process_time()
        if _goes_on(path):
            run = resume(path, force=True, plugins=self.plugins)
        else:
            shutil.rmtree(path, ignore_errors=True)
            run = train(Experiment.from_json(experiment), out=path, plugins=self.plugins)
        spent = round(time.process_time() - began, 2)
        return {"seconds": run.record["seconds"]["total"], "core_seconds": spent, "metrics": run.metrics}

    def weigh(self, experiment: dict[str, Any], classes: list[str], images: int, folder: str) -> dict[str, Any]:
        """Write the untrained network of an experiment as a file below `folder`, unless one of its shape lies there.

        An experiment that no network of this kind can carry out is `unfit`, for that reason.
        """
        from zoo.studies.deployment_cost import weigh

        try:
            return weigh(Experiment.from_json(experiment), tuple(classes), images, Path(folder), self.plugins)
        except UsageError as error:
            return {"unfit": error.message}

    def score(self, run: str, split: str) -> dict[str, Any]:
        """Score a finished run on a split; the look is in the run's ledger, its predictions in its folder."""
        from zoo.evaluation.scoring import evaluate

        found = evaluate(Run.open(run), split=split, plugins=self.plugins)
        digest = hashlib.sha256("\n".join(found.predictions.ids).encode()).hexdigest()
        return {"metrics": found.metrics, "images": len(found.predictions), "ids_sha256": digest}

    def search(
        self, experiment: dict[str, Any], given: list[str], count: int, folder: str, seconds: float | None
    ) -> dict[str, Any]:
        """Look for better settings of one way to train, of those that are not `given`."""
        from zoo.studies.hyperparameter_search import search

        return search(Experiment.from_json(experiment), given, count, Path(folder), seconds, self.plugins)


def _goes_on(path: Path) -> bool:
    """Whether there is a run that can go on, or is finished and whole."""
    try:
        run = Run.open(path)
        if run.status == "finished":
            run.predictions()
    except ZooError:
        return False
    return run.status != "failed"
