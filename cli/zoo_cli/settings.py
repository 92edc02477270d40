"""The settings of an experiment as options, shared by `zoo train`, `zoo plan` and `zoo study`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import click

from zoo.experiment import Experiment
from zoo_cli.options import device_option, workers_option

F = TypeVar("F", bound=Callable[..., Any])

# Defaults come from the fields of `Experiment`, so that they are defined once
DEFAULTS = {name: field.default for name, field in Experiment.__dataclass_fields__.items()}


class _Rate(click.ParamType[Any]):
    """A learning rate: a number, or the word `find`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "find" else click.FLOAT.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "FLOAT|find"


class _Seconds(click.ParamType[float]):
    """A duration such as `90s`, `30m` or `2h`, converted to seconds; a number without a unit is in seconds."""

    name = "time"
    units: ClassVar[dict[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", str(value))
        if found is None:
            self.fail(f"{value} is not a duration, such as 90s, 30m or 2h", param, ctx)
        return float(found[1]) * self.units[found[2]]


RATE, SECONDS = _Rate(), _Seconds()


def _choice(name: str, *values: str, help: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}", type=click.Choice(values), default=DEFAULTS[name.replace("-", "_")], show_default=True, help=help
    )


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--data",
        metavar="DATA",
        help="Images to train on: a folder, or a dataset as NAME:ARGUMENT; see `zoo list datasets`.",
    ),
    click.option("--backbone", metavar="NAME", help="Network to fine-tune; see `zoo list backbones`."),
    click.option(
        "--strategy",
        metavar="SPEC",
        help="Which layers to train: linear, partial:2 or linear,epochs=2+full,lr=0.1; see `zoo list strategies`.",
    ),
    click.option(
        "--weights",
        default="default",
        show_default=True,
        metavar="default|none|TAG|FILE",
        help="Weights to start from: the backbone's default, none (random), one of its published tags, or a file.",
    ),
    click.option(
        "--epochs",
        type=int,
        help="Number of passes over the training images.  [default: 5, or the strategy's own]",
    ),
    click.option(
        "--batch-size",
        type=int,
        default=DEFAULTS["batch_size"],
        show_default=True,
        help="Number of images in each training step.",
    ),
    click.option(
        "--accumulate",
        type=int,
        default=DEFAULTS["accumulate"],
        show_default=True,
        help="Number of parts in which to compute each batch: more parts take less memory, with the same gradient.",
    ),
    click.option(
        "--lr",
        type=RATE,
        default=DEFAULTS["lr"],
        show_default=True,
        help="Peak learning rate of the head; strategies scale it for other layers. `find` chooses it by a range test.",
    ),
    _choice("optimizer", "adamw", "sgd", help="Optimiser; `sgd` has Nesterov momentum 0.9."),
    click.option(
        "--weight-decay",
        type=float,
        default=DEFAULTS["weight_decay"],
        show_default=True,
        help="Weight decay; not applied to biases and normalisation layers.",
    ),
    _choice(
        "schedule",
        "one-cycle",
        "cosine",
        "step",
        "plateau",
        "constant",
        help="Learning-rate schedule; it starts anew in each phase of the strategy.",
    ),
    click.option(
        "--warmup",
        type=float,
        default=DEFAULTS["warmup"],
        show_default=True,
        help="Fraction of each phase's steps in which the learning rate rises, 0 to 0.9.",
    ),
    _choice(
        "augment",
        "none",
        "flip",
        "rotate",
        "zoom",
        "light",
        "trivial",
        "rand",
        help="Random augmentation of training images. `light` flips, crops and changes brightness and contrast; "
        "`trivial` is TrivialAugment, `rand` is RandAugment.",
    ),
    click.option(
        "--views",
        type=int,
        metavar="K",
        help="Number of random views of each image, used in rotation.  [default: the square root of the epochs if the "
        "first stages are frozen, else a new view each epoch]",
    ),
    click.option("--dropout", type=float, help="Dropout rate before the head.  [default: the backbone's own]"),
    click.option(
        "--drop-path",
        type=float,
        help="Stochastic-depth rate: the chance that a residual branch is skipped.  [default: the backbone's own]",
    ),
    click.option(
        "--label-smoothing",
        type=float,
        default=DEFAULTS["label_smoothing"],
        show_default=True,
        help="Share of each label spread evenly over all classes in the loss; 0 turns it off.",
    ),
    _choice(
        "class-balance",
        "none",
        "loss",
        "sample",
        help="How to compensate for rare classes: weight them in the loss, or sample their images more often.",
    ),
    click.option(
        "--clip",
        type=float,
        default=DEFAULTS["clip"],
        show_default=True,
        help="Gradient clipping: the largest norm of all gradients together; 0 turns it off.",
    ),
    click.option(
        "--norm",
        type=click.Choice(["frozen", "train", "recalibrate"]),
        help="Running statistics of batch norms: keep them, update them in trainable stages, or compute them anew on "
        "the training images at the start of each phase.  [default: the strategy's]",
    ),
    click.option(
        "--fraction",
        type=float,
        default=DEFAULTS["fraction"],
        show_default=True,
        help="Fraction of the training images of each class to train on, up to 1.",
    ),
    click.option(
        "--early-stopping",
        type=int,
        metavar="EPOCHS",
        help="End a phase after this many epochs without a lower validation loss, and keep the best epoch.  "
        "[default: never]",
    ),
    _choice(
        "keep",
        "last",
        "best",
        help="Epoch whose weights to keep: the last, or the one with the lowest validation loss. For data with only "
        "two splits, `best` sets 15 % of the training images aside for validation.",
    ),
    click.option(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="Height and width of the network's input.  [default: the backbone's own]",
    ),
    workers_option,
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the head's first weights, the order of images and augmentation.",
    ),
    click.option(
        "--split-seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the split into train, val and test, for data that are not split yet.",
    ),
    device_option,
    _choice(
        "precision",
        "auto",
        "fp32",
        "bf16",
        help="Number format of the training steps; `auto` takes bf16 (by autocast) on hardware where it is faster.",
    ),
    _choice(
        "cache",
        "auto",
        "on",
        "off",
        help="Whether to compute the features of frozen stages once and store them, for later epochs and runs; `auto` "
        "does if that saves time. Results are the same. See `zoo cache`.",
    ),
    click.option("--compile", is_flag=True, help="Compile the trainable part of the network with torch.compile."),
    _choice(
        "on-bad-image",
        "skip",
        "fail",
        help="What to do with a file that cannot be read as an image: leave it out with a warning, or fail.",
    ),
    click.option(
        "--time-budget",
        type=SECONDS,
        metavar="TIME",
        help="Stop training after this time, such as 90s, 30m or 2h; the run is then scored and saved as usual.  "
        "[default: none]",
    ),
    click.option(
        "--save-every",
        type=SECONDS,
        metavar="TIME",
        help="Time between checkpoints, such as 30s or 5m.  [default: 30s, more if saving took over 2 % of the time]",
    ),
)


def settings_options(command: F) -> F:
    """Add an option for every setting of an experiment; the order is that of the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
