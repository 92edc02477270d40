"""The settings of an experiment as options, for every command that takes one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import click

from zoo.experiment import Experiment
from zoo_cli.options import device_option, workers_option

F = TypeVar("F", bound=Callable[..., Any])

# One source of defaults: the experiment's own fields
DEFAULTS = {name: field.default for name, field in Experiment.__dataclass_fields__.items()}


class _Rate(click.ParamType[Any]):
    """A number, or the word `find`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "find" else click.FLOAT.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "FLOAT|find"


class _Seconds(click.ParamType[float]):
    """A time such as `90s`, `30m`, `2h`, or seconds without a unit; in seconds."""

    name = "time"
    units: ClassVar[dict[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", str(value))
        if found is None:
            self.fail(f"{value} is no time, such as 90s, 30m or 2h", param, ctx)
        return float(found[1]) * self.units[found[2]]


RATE, SECONDS = _Rate(), _Seconds()


def _choice(name: str, *values: str, help: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}", type=click.Choice(values), default=DEFAULTS[name.replace("-", "_")], show_default=True, help=help
    )


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--data", metavar="DATA", help="A folder of photographs, or NAME:ARGUMENT; see `zoo list datasets`."),
    click.option("--backbone", metavar="NAME", help="See `zoo list backbones`."),
    click.option(
        "--strategy",
        metavar="SPEC",
        help="linear, partial:2, linear,epochs=2+full,lr=0.1; see `zoo list strategies`.",
    ),
    click.option(
        "--weights", default="default", show_default=True, metavar="default|none|TAG|FILE", help="What to start from."
    ),
    click.option(
        "--epochs",
        type=int,
        help="Passes over the training images.  [default: 5, or what the strategy asks for]",
    ),
    click.option("--batch-size", type=int, default=DEFAULTS["batch_size"], show_default=True),
    click.option(
        "--accumulate",
        type=int,
        default=DEFAULTS["accumulate"],
        show_default=True,
        help="Parts that a batch is computed in: the same step in less memory.",
    ),
    click.option(
        "--lr",
        type=RATE,
        default=DEFAULTS["lr"],
        show_default=True,
        help="Highest learning rate of the head; strategies scale it. `find` looks for one.",
    ),
    _choice("optimizer", "adamw", "sgd", help="SGD has Nesterov momentum 0.9."),
    click.option(
        "--weight-decay",
        type=float,
        default=DEFAULTS["weight_decay"],
        show_default=True,
        help="Not of biases and norms.",
    ),
    _choice("schedule", "one-cycle", "cosine", "step", "plateau", "constant", help="Of the rate, over each phase."),
    click.option(
        "--warmup",
        type=float,
        default=DEFAULTS["warmup"],
        show_default=True,
        help="Share of each phase in which the rate rises.",
    ),
    _choice(
        "augment", "none", "flip", "rotate", "zoom", "light", "trivial", "rand", help="Random views of training images."
    ),
    click.option(
        "--views",
        type=int,
        metavar="K",
        help="Random views of an image, shown in turns.  [default: the root of the epochs where stages are frozen, "
        "else a new one each epoch]",
    ),
    click.option("--dropout", type=float, help="Before the head.  [default: the backbone's own]"),
    click.option("--drop-path", type=float, help="Stochastic depth.  [default: the backbone's own]"),
    click.option("--label-smoothing", type=float, default=DEFAULTS["label_smoothing"], show_default=True),
    _choice("class-balance", "none", "loss", "sample", help="Weigh rare classes in the loss, or draw them more often."),
    click.option(
        "--clip",
        type=float,
        default=DEFAULTS["clip"],
        show_default=True,
        help="Largest norm of the gradient; 0 for no clipping.",
    ),
    click.option(
        "--norm",
        type=click.Choice(["frozen", "train", "recalibrate"]),
        help="Running statistics of batch norms.  [default: the strategy's]",
    ),
    click.option(
        "--fraction",
        type=float,
        default=DEFAULTS["fraction"],
        show_default=True,
        help="Share of the training images of each class.",
    ),
    click.option(
        "--early-stopping",
        type=int,
        metavar="EPOCHS",
        help="Stop a phase after that many epochs without a better loss on val; keeps the best.",
    ),
    _choice(
        "keep", "last", "best", help="Which epoch's weights; `best` by the loss on val, or on a part carved from train."
    ),
    click.option("--image-size", type=int, metavar="PIXELS", help="[default: the backbone's own]"),
    workers_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of head, order and views."),
    click.option(
        "--split-seed",
        type=int,
        default=0,
        show_default=True,
        help="Of the split, where the data bring none.",
    ),
    device_option,
    _choice("precision", "auto", "fp32", "bf16", help="bf16 by autocast; auto takes it where the hardware has it."),
    _choice(
        "cache", "auto", "on", "off", help="Keep what frozen stages compute; see `zoo cache`. Results are the same."
    ),
    click.option("--compile", is_flag=True, help="Compile the network with torch.compile."),
    _choice("on-bad-image", "skip", "fail", help="What a file means that is no usable photograph."),
    click.option(
        "--time-budget",
        type=SECONDS,
        metavar="TIME",
        help="End in good order after that long: 90s, 30m, 2h.  [default: none]",
    ),
    click.option(
        "--save-every",
        type=SECONDS,
        metavar="TIME",
        help="Time between checkpoints.  [default: 30s, and never over 2 % of the time]",
    ),
)


def settings_options(command: F) -> F:
    """Add an option for every setting of an experiment, in the order of the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
