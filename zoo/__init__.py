"""zoo: fine-tune any backbone with any strategy, compare honestly, ship one verified ONNX file.

    import zoo

    run = zoo.train(zoo.Experiment(data="photos", backbone="efficientnet_lite0", strategy="partial:2"))
    file = zoo.export(run)
    print(zoo.evaluate(file, data="photos").metrics["accuracy"])

Verbs: `train`, `train_final`, `resume`, `plan`, `evaluate`, `predict`, `export`, `verify`, `inspect`, `bench`, `study`,
`advise`, `compare`, `diff`, `measure_forgetting`, `report`. A run is opened with `Run.open(folder)`, a study with
`Results.open(folder)`.

Importing `zoo` imports neither torch nor any plugin, and each name only when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.advice.recommendation import advise
    from zoo.augmentation import Augmentation
    from zoo.backbone import Backbone, BuildSpec, Network, Weights
    from zoo.command import Command
    from zoo.dataset import Dataset, Images, Sample
    from zoo.errors import UsageError, ZooError
    from zoo.evaluation.forgetting import measure_forgetting
    from zoo.evaluation.paired_diff import diff
    from zoo.evaluation.scoring import evaluate
    from zoo.evaluation.significance import compare
    from zoo.experiment import Experiment
    from zoo.exporter import Check, Exporter, ExportSpec
    from zoo.exporting.verification import inspect, verify
    from zoo.exporting.writing import export
    from zoo.hookspecs import hookimpl
    from zoo.inference.prediction import predict
    from zoo.latency.measurement import bench
    from zoo.loss import Loss
    from zoo.metric import Metric
    from zoo.option import Option
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.preprocess import Preprocess
    from zoo.progress import ProgressBar
    from zoo.reports.html import report
    from zoo.runs.run import Run
    from zoo.runtime import Runtime, Session
    from zoo.stage import Anatomy, Stage
    from zoo.strategy import Group, Phase, Strategy
    from zoo.studies.results import Results
    from zoo.studies.runner import study
    from zoo.studies.study import Study
    from zoo.training.dry_run import plan
    from zoo.training.entry import resume, train, train_final

__version__ = "0.1.0"

__all__ = [
    "Anatomy",
    "Augmentation",
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
    "Loss",
    "Metric",
    "Network",
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
    "Session",
    "Stage",
    "Strategy",
    "Study",
    "UsageError",
    "Weights",
    "ZooError",
    "advise",
    "bench",
    "compare",
    "diff",
    "evaluate",
    "export",
    "hookimpl",
    "inspect",
    "measure_forgetting",
    "plan",
    "predict",
    "report",
    "resume",
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
        "Session": "zoo.runtime:Session",
        "Stage": "zoo.stage:Stage",
        "Strategy": "zoo.strategy:Strategy",
        "Study": "zoo.studies.study:Study",
        "UsageError": "zoo.errors:UsageError",
        "Weights": "zoo.backbone:Weights",
        "ZooError": "zoo.errors:ZooError",
        "advise": "zoo.advice.recommendation:advise",
        "bench": "zoo.latency.measurement:bench",
        "compare": "zoo.evaluation.significance:compare",
        "diff": "zoo.evaluation.paired_diff:diff",
        "evaluate": "zoo.evaluation.scoring:evaluate",
        "export": "zoo.exporting.writing:export",
        "hookimpl": "zoo.hookspecs:hookimpl",
        "inspect": "zoo.exporting.verification:inspect",
        "measure_forgetting": "zoo.evaluation.forgetting:measure_forgetting",
        "plan": "zoo.training.dry_run:plan",
        "predict": "zoo.inference.prediction:predict",
        "report": "zoo.reports.html:report",
        "resume": "zoo.training.entry:resume",
        "study": "zoo.studies.runner:study",
        "train": "zoo.training.entry:train",
        "train_final": "zoo.training.entry:train_final",
        "verify": "zoo.exporting.verification:verify",
    },
)


def __dir__() -> list[str]:
    """The public names, including those that are loaded on first use."""
    return sorted({*__all__, "__version__", "__doc__", "__name__", "__file__", "__path__"})
