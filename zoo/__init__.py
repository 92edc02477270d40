"""zoo: fine-tune any backbone with any strategy, compare honestly, ship one verified ONNX file.

    import zoo

    run = zoo.train(zoo.Experiment(data="photos", backbone="efficientnet_lite0", strategy="partial:2"))
    file = zoo.export(run)
    print(zoo.evaluate(file, data="photos").metrics["accuracy"])

Verbs: `train`, `train_final`, `resume`, `rerun`, `plan`, `evaluate`, `predict`, `export`, `verify`, `inspect`, `bench`,
`study`, `advise`, `soup`, `ensemble`, `compare`, `diff`, `measure_forgetting`, `report`, `card`.
`Run.open(folder)` opens a run, `Results.open(folder)` a study.

Importing `zoo` imports neither torch nor any plugin, and each name only when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.advice.recommendation import advise
    from zoo.augmentation import Augmentation
    from zoo.backbone import Backbone, BuildSpec, Network, Weights
    from zoo.callback import Callback
    from zoo.combining.ensemble import ensemble
    from zoo.combining.soup import soup
    from zoo.command import Command
    from zoo.dataset import Dataset, Images, Sample
    from zoo.errors import UsageError, ZooError
    from zoo.evaluation.forgetting import measure_forgetting
    from zoo.evaluation.paired_diff import diff
    from zoo.evaluation.scoring import evaluate
    from zoo.evaluation.significance import compare
    from zoo.experiment import Experiment
    from zoo.exporter import Check, Exporter, ExportSpec
    from zoo.exporting.model_card import card
    from zoo.exporting.verification import inspect, verify
    from zoo.exporting.writing import export
    from zoo.hookspecs import hookimpl
    from zoo.inference.prediction import predict
    from zoo.latency.measurement import bench
    from zoo.loss import Loss
    from zoo.metric import Metric
    from zoo.optimizer import Optimizer
    from zoo.option import Option
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.preprocess import Preprocess
    from zoo.progress import ProgressBar
    from zoo.reports.html import report
    from zoo.runs.run import Run
    from zoo.runtime import Runtime, Session
    from zoo.schedule import Schedule
    from zoo.stage import Anatomy, Stage
    from zoo.strategy import Group, Phase, Strategy
    from zoo.studies.results import Results
    from zoo.studies.runner import study
    from zoo.studies.study import Study
    from zoo.training.dry_run import plan
    from zoo.training.entry import resume, train, train_final
    from zoo.training.rerun import rerun

__version__ = "0.1.0"

__all__ = [
    "Anatomy",
    "Augmentation",
    "Backbone",
    "BuildSpec",
    "Callback",
    "Check",
    "Command",
    "Dataset",
    "Experiment",
    "ExportSpec",
    "Exporter",
    "Group",
    "Images",
    "Loss",
    "Metric",
    "Network",
    "Optimizer",
    "Option",
    "Phase",
    "Plugins",
    "Predictions",
    "Preprocess",
    "ProgressBar",
    "Results",
    "Run",
    "Runtime",
    "Sample",
    "Schedule",
    "Session",
    "Stage",
    "Strategy",
    "Study",
    "UsageError",
    "Weights",
    "ZooError",
    "advise",
    "bench",
    "card",
    "compare",
    "diff",
    "ensemble",
    "evaluate",
    "export",
    "hookimpl",
    "inspect",
    "measure_forgetting",
    "plan",
    "predict",
    "report",
    "rerun",
    "resume",
    "soup",
    "study",
    "train",
    "train_final",
    "verify",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Anatomy": "zoo.stage:Anatomy",
        "Augmentation": "zoo.augmentation:Augmentation",
        "Backbone": "zoo.backbone:Backbone",
        "BuildSpec": "zoo.backbone:BuildSpec",
        "Callback": "zoo.callback:Callback",
        "Check": "zoo.exporter:Check",
        "Command": "zoo.command:Command",
        "Dataset": "zoo.dataset:Dataset",
        "Experiment": "zoo.experiment:Experiment",
        "ExportSpec": "zoo.exporter:ExportSpec",
        "Exporter": "zoo.exporter:Exporter",
        "Group": "zoo.strategy:Group",
        "Images": "zoo.dataset:Images",
        "Loss": "zoo.loss:Loss",
        "Metric": "zoo.metric:Metric",
        "Network": "zoo.backbone:Network",
        "Optimizer": "zoo.optimizer:Optimizer",
        "Option": "zoo.option:Option",
        "Phase": "zoo.strategy:Phase",
        "Plugins": "zoo.plugin:Plugins",
        "Predictions": "zoo.predictions:Predictions",
        "Preprocess": "zoo.preprocess:Preprocess",
        "ProgressBar": "zoo.progress:ProgressBar",
        "Results": "zoo.studies.results:Results",
        "Run": "zoo.runs.run:Run",
        "Runtime": "zoo.runtime:Runtime",
        "Sample": "zoo.dataset:Sample",
        "Schedule": "zoo.schedule:Schedule",
        "Session": "zoo.runtime:Session",
        "Stage": "zoo.stage:Stage",
        "Strategy": "zoo.strategy:Strategy",
        "Study": "zoo.studies.study:Study",
        "UsageError": "zoo.errors:UsageError",
        "Weights": "zoo.backbone:Weights",
        "ZooError": "zoo.errors:ZooError",
        "advise": "zoo.advice.recommendation:advise",
        "bench": "zoo.latency.measurement:bench",
        "card": "zoo.exporting.model_card:card",
        "compare": "zoo.evaluation.significance:compare",
        "diff": "zoo.evaluation.paired_diff:diff",
        "ensemble": "zoo.combining.ensemble:ensemble",
        "evaluate": "zoo.evaluation.scoring:evaluate",
        "export": "zoo.exporting.writing:export",
        "hookimpl": "zoo.hookspecs:hookimpl",
        "inspect": "zoo.exporting.verification:inspect",
        "measure_forgetting": "zoo.evaluation.forgetting:measure_forgetting",
        "plan": "zoo.training.dry_run:plan",
        "predict": "zoo.inference.prediction:predict",
        "report": "zoo.reports.html:report",
        "rerun": "zoo.training.rerun:rerun",
        "resume": "zoo.training.entry:resume",
        "soup": "zoo.combining.soup:soup",
        "study": "zoo.studies.runner:study",
        "train": "zoo.training.entry:train",
        "train_final": "zoo.training.entry:train_final",
        "verify": "zoo.exporting.verification:verify",
    },
)


def __dir__() -> list[str]:
    """The public names, including those that are loaded on first use."""
    return sorted({*__all__, "__version__", "__doc__", "__name__", "__file__", "__path__"})
