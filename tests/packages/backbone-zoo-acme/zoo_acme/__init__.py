"""A third party's plugin: one of each hook. Imports no torch; the modules that the rows name do, when they are used."""

from dataclasses import dataclass
from typing import ClassVar

from zoo import (
    Anatomy,
    Augmentation,
    Backbone,
    Callback,
    Command,
    Dataset,
    Exporter,
    Group,
    Loss,
    Metric,
    Optimizer,
    Option,
    Phase,
    Preprocess,
    Runtime,
    Schedule,
    Strategy,
    hookimpl,
)


@dataclass(frozen=True)
class Edges(Strategy):
    """Train the first `stages` stages and the head; the stages between them stay frozen."""

    name: ClassVar[str] = "edges"
    summary: ClassVar[str] = "train the first N stages and the head"

    stages: int = 1
    """how many stages train, counted from the input"""

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names[: self.stages], lr=0.5), Group(stages=("head",)))
        return (Phase(name="edges", groups=groups, norm="frozen"),)


@hookimpl
def register_backbones(register):
    preprocess = Preprocess(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    register(
        Backbone(name="acmenet", summary="three convolutions", build="zoo_acme.network:build", preprocess=preprocess)
    )


@hookimpl
def register_strategies(register):
    register(Edges)


@hookimpl
def register_augmentations(register):
    share = Option(name="share", default=0.5, summary="share of the views that are grey", low=0, high=1)
    register(Augmentation(name="grey", summary="some views grey", target="zoo_acme.steps:grey", options=(share,)))


@hookimpl
def register_losses(register):
    power = Option(name="power", default=2.0, summary="power of the difference", low=1, high=10)
    register(Loss(name="distance", summary="to the labels", target="zoo_acme.steps:distance", options=(power,)))


@hookimpl
def register_optimizers(register):
    beta = Option(name="beta", default=0.9, summary="share of the mean gradient that a step keeps", low=0, high=0.999)
    register(Optimizer(name="signs", summary="steps of one size", target="zoo_acme.steps:Signs", options=(beta,)))


@hookimpl
def register_schedules(register):
    power = Option(name="power", default=2.0, summary="power of the steps that are left", low=0.1, high=10)
    register(Schedule(name="falling", summary="a power", target="zoo_acme.steps:falling", options=(power,)))


@hookimpl
def register_callbacks(register):
    file = Option(name="file", default="runs.csv", summary="file that gets a line for each run")
    register(Callback(name="diary", summary="a line for each run", target="zoo_acme.diary:Diary", options=(file,)))


@hookimpl
def register_datasets(register):
    summary = "named:FOLDER of files such as cat_01.jpg, whose name begins with the class"
    register(Dataset(name="named", summary=summary, open="zoo_acme.data:open_named", absolute="zoo_acme.data:absolute"))


@hookimpl
def register_metrics(register):
    summary = "Brier score: squared error of the probabilities"
    register(Metric(name="brier", summary=summary, compute="zoo_acme.scores:brier", higher_is_better=False))


@hookimpl
def register_exporters(register):
    register(
        Exporter(
            name="packed",
            summary="the ONNX file, compressed by gzip",
            suffix=".packed",
            write="zoo_acme.packed:write",
            open="zoo_acme.packed:open_file",
            verify="zoo_acme.packed:verify",
            devices=("cpu",),
            runtimes={"cpu": "packed-cpu"},
        )
    )


@hookimpl
def register_runtimes(register):
    register(
        Runtime(
            name="packed-cpu",
            summary="onnxruntime on the CPU, for packed files",
            accepts="packed",
            devices=("cpu",),
            available="zoo_acme.available:here",
            load="zoo_acme.session:load",
        )
    )


@hookimpl
def register_commands(register):
    register(Command(name="tally", summary="Count the right answers of a run by class", target="zoo_acme.tally:tally"))
