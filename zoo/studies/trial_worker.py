"""Worker process of a study: exports untrained networks, searches settings, trains and evaluates.

A trial that kills its process, by using up the memory for instance, thus becomes a failed trial and not the end of the
study.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.runs.run import Run
from zoo.studies.trial import can_continue
from zoo.system.process_memory import reset_peak_memory


class TrialWorker:
    """Answers the requests of `zoo.studies.runner`. Its process imports torch once for all trials."""

    def __init__(self) -> None:
        from zoo.plugin import Plugins
        from zoo.studies.machine_state import MachineStates

        self.plugins = Plugins()
        self._states = MachineStates()
        self._backbone: str | None = None
        self._features: tuple[Any, Any] | None = None  # what they are of, and what computes them

    def train(self, experiment: dict[str, Any], folder: str) -> dict[str, Any]:
        """Train into `folder`, or continue the stopped run that is there; a finished run is not trained again.

        A run that failed or is damaged is replaced, because the folder belongs to the study.
        """
        from zoo.feature_cache.row_pool import RowPool
        from zoo.training.entry import resume, train

        reset_peak_memory()  # of the trial before
        path, began, asked = Path(folder), time.process_time(), Experiment.from_json(experiment)
        if self._backbone != asked.backbone:  # trials of one backbone follow each other; the store has what is left
            self._backbone, self._rows = asked.backbone, RowPool()
        if can_continue(path):
            run = resume(path, force=True, plugins=self.plugins, pool=self._rows)
        else:
            shutil.rmtree(path, ignore_errors=True)
            run = train(asked, out=path, plugins=self.plugins, pool=self._rows)
        spent = round(time.process_time() - began, 2)
        return {
            "seconds": run.record["seconds"]["total"],
            "core_seconds": spent,
            "others": run.record.get("others", 0.0),
            "metrics": run.metrics,
        }

    def shard_features(
        self,
        experiment: dict[str, Any],
        classes: list[str],
        store: str,
        budget: int,
        file: str,
        uses: dict[str, list[list[int]]],
        state: list[int],
        engine: dict[str, Any] | None,
        images: int,
    ) -> dict[str, Any]:
        """Keep the features of one shard; see `ShardFeatures.compute`.

        Without an `engine` none are computed: one is chosen for all `images`, and the answer is the `engine` and the
        `bytes` of an image's features.
        """
        from zoo.config.context import Context
        from zoo.data.sample_columns import Ranges
        from zoo.data.shards import FileState
        from zoo.feature_cache.engine_choice import EngineChoice
        from zoo.progress import Silent
        from zoo.storage.tensor_store import Store
        from zoo.training.shard_features import ShardFeatures

        asked = (experiment, classes, store, budget)
        if self._features is None or self._features[0] != asked:
            context = Context(plugins=self.plugins, progress=Silent(), store=Store(Path(store), budget))
            self._features = asked, ShardFeatures(Experiment.from_json(experiment), classes, context)
        ranges = {use: Ranges(*(np.array(numbers, np.int64) for numbers in one)) for use, one in uses.items()}
        if engine is None:
            choice, size = self._features[1].begin(file, ranges.get("fit"), images)
            return {"engine": choice.to_json(), "bytes": size}
        found: dict[str, Any] = self._features[1].compute(
            file, FileState(*state), ranges, EngineChoice.from_json(engine)
        )
        return found

    def state(self, experiment: dict[str, Any]) -> dict[str, Any]:
        """The versions of this machine and the images that it sees; see `machine_state`."""
        return self._states.of(Experiment.from_json(experiment), self.plugins)

    def export_untrained(
        self, experiment: dict[str, Any], classes: list[str], images: int, folder: str
    ) -> dict[str, Any]:
        """Export the untrained network of an experiment below `folder`; see `deployment_cost.export_untrained`.

        Where strategy and network do not fit, the answer is the reason, as `unfit`.
        """
        from zoo.studies.deployment_cost import export_untrained

        try:
            return export_untrained(
                Experiment.from_json(experiment), tuple(classes), images, Path(folder), self.plugins
            )
        except UsageError as error:
            return {"unfit": error.message}

    def train_final(self, run: str, folder: str) -> dict[str, Any]:
        """Train the configuration of a finished run on all images that are not locked, into `folder`.

        A final run of this very run that is there is continued, or kept; anything else in `folder` is replaced.
        """
        from zoo.training.entry import resume, train_final

        of, path = Run.open(run), Path(folder)
        if can_continue(path) and (Run.open(path).record.get("final") or {}).get("id") == of.record["id"]:
            resume(path, force=True, plugins=self.plugins)
        else:
            shutil.rmtree(path, ignore_errors=True)
            train_final(of, out=path, plugins=self.plugins)
        return {}

    def score(self, run: str, split: str) -> dict[str, Any]:
        """Evaluate a finished run on a split; the run's ledger and its folder keep the evaluation and predictions."""
        from zoo.evaluation.scoring import evaluate_trial

        found = evaluate_trial(Run.open(run), split, self.plugins)
        digest = hashlib.sha256("\n".join(found.predictions.ids).encode()).hexdigest()
        return {"metrics": found.metrics, "images": len(found.predictions), "ids_sha256": digest}

    def search(
        self,
        experiment: dict[str, Any],
        given: list[str],
        count: int,
        folder: str,
        seconds: float | None,
        pruner: str,
        place: dict[str, Any] | None,
        session: str,
    ) -> dict[str, Any]:
        """Search better settings for one configuration; those that are `given` stay."""
        from zoo.studies.hyperparameter_search import search
        from zoo.studies.search_storage import SearchPlace

        return search(
            Experiment.from_json(experiment),
            given,
            count,
            Path(folder),
            seconds,
            self.plugins,
            pruner=pruner,
            place=None if place is None else SearchPlace(**place),
            session=session,
        )
