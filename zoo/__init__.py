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
    from zoo.advising import advise
    from zoo.evaluation import evaluate
    from zoo.experiment import Experiment
    from zoo.exporting import export
    from zoo.planning import plan
    from zoo.plugin import Plugins
    from zoo.prediction import predict
    from zoo.reporting import report
    from zoo.run import Run
    from zoo.studying import study
    from zoo.training import resume, train
    from zoo.trials import Study
    from zoo.verifying import verify

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
    "Run": "zoo.run",
    "advise": "zoo.advising",
    "evaluate": "zoo.evaluation",
    "export": "zoo.exporting",
    "Study": "zoo.trials",
    "plan": "zoo.planning",
    "predict": "zoo.prediction",
    "report": "zoo.reporting",
    "resume": "zoo.training",
    "study": "zoo.studying",
    "train": "zoo.training",
    "verify": "zoo.verifying",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module `zoo` has no attribute `{name}`")
