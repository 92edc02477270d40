"""zoo: fine-tune any backbone with any strategy, compare honestly, ship one verified ONNX file.

    import zoo

    run = zoo.train(zoo.Experiment(data="photos", backbone="efficientnet_lite0", strategy="partial:2"))
    file = zoo.export(run)
    print(zoo.evaluate(file, data="photos").metrics["accuracy"])

Importing `zoo` imports neither torch nor any plugin; the verbs load them when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoo.backbone import Backbone, BuildSpec, Network, Weights
from zoo.command import Command
from zoo.dataset import Dataset, Images, Sample
from zoo.errors import UsageError, ZooError
from zoo.exporter import Check, Exporter, ExportSpec
from zoo.hookspecs import hookimpl
from zoo.metric import Metric
from zoo.preprocess import Preprocess
from zoo.runtime import Runtime, Session
from zoo.stage import Anatomy, Stage
from zoo.strategy import Group, Phase, Strategy

if TYPE_CHECKING:
    from zoo.advice.recommendation import advise
    from zoo.evaluation.scoring import evaluate
    from zoo.experiment import Experiment
    from zoo.exporting.verification import verify
    from zoo.exporting.writing import export
    from zoo.inference.prediction import predict
    from zoo.plugin import Plugins
    from zoo.reports.html import report
    from zoo.runs.run import Run
    from zoo.studies.runner import study
    from zoo.studies.study import Study
    from zoo.training.dry_run import plan
    from zoo.training.session import resume, train

__version__ = "0.1.0"

__all__ = [
    "Anatomy",
    "Backbone",
    "BuildSpec",
    "Check",
    "Command",
    "Dataset",
    "Experiment",
    "ExportSpec",
    "Exporter",
    "Group",
    "Images",
    "Metric",
    "Network",
    "Phase",
    "Plugins",
    "Preprocess",
    "Run",
    "Runtime",
    "Sample",
    "Session",
    "Stage",
    "Strategy",
    "Study",
    "UsageError",
    "Weights",
    "ZooError",
    "advise",
    "evaluate",
    "export",
    "hookimpl",
    "plan",
    "predict",
    "report",
    "resume",
    "study",
    "train",
    "verify",
]

_LAZY = {
    "Experiment": "zoo.experiment",
    "Plugins": "zoo.plugin",
    "Run": "zoo.runs.run",
    "advise": "zoo.advice.recommendation",
    "evaluate": "zoo.evaluation.scoring",
    "export": "zoo.exporting.writing",
    "Study": "zoo.studies.study",
    "plan": "zoo.training.dry_run",
    "predict": "zoo.inference.prediction",
    "report": "zoo.reports.html",
    "resume": "zoo.training.session",
    "study": "zoo.studies.runner",
    "train": "zoo.training.session",
    "verify": "zoo.exporting.verification",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module `zoo` has no attribute `{name}`")
