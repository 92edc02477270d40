"""The settings of an experiment as options, shared by `zoo train`, `zoo plan` and `zoo study`.

Names, types, choices, defaults and help come from `Experiment`, so that each is written once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from zoo.errors import UsageError
from zoo.experiment import Experiment, attribute_docs, option_of
from zoo.preprocess import as_size

F = TypeVar("F", bound=Callable[..., Any])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Rate(click.ParamType[Any]):
    """A learning rate: a number, or the word `find`."""

    name = "rate"
    in_file = 'a number or `"find"`'

    def accepts(self, value: Any) -> bool:
        return _is_number(value) or value == "find"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "find" else click.FLOAT.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "FLOAT|find"


class _Seconds(click.ParamType[float]):
    """A duration such as `90s`, `30m` or `2h`, converted to seconds; a number without a unit is in seconds."""

    name = "time"
    units: ClassVar[dict[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600}
    in_file = 'a number of seconds, or a duration such as `"30m"`'

    def accepts(self, value: Any) -> bool:
        return _is_number(value) or isinstance(value, str)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if _is_number(value):
            return float(value)
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", str(value))
        if found is None:
            self.fail(f"{value} is not a duration, such as 90s, 30m or 2h", param, ctx)
        return float(found[1]) * self.units[found[2]]


class _Size(click.ParamType[Any]):
    """An image size: a number, or height and width such as `160x320`."""

    name = "size"
    in_file = 'a whole number, or a text such as `"160x320"`'

    def accepts(self, value: Any) -> bool:
        pair = isinstance(value, list) and len(value) == 2
        return all(type(one) is int for one in value) if pair else type(value) is int or isinstance(value, str)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return as_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


RATE, SECONDS, SIZE = _Rate(), _Seconds(), _Size()

# The order of the help
ORDER = (
    "data",
    "backbone",
    "strategy",
    "weights",
    "from_run",
    "epochs",
    "batch_size",
    "accumulate",
    "lr",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "augment",
    "loss",
    "views",
    "dropout",
    "drop_path",
    "label_smoothing",
    "class_balance",
    "clip",
    "norm",
    "fraction",
    "early_stopping",
    "keep",
    "image_size",
    "fit",
    "fill",
    "levels",
    "workers",
    "seed",
    "split_seed",
    "group",
    "folds",
    "device",
    "precision",
    "cache",
    "engine",
    "compile",
    "on_bad_image",
    "exclude",
    "on_leak",
    "leak_check",
    "unknown_rate",
    "time_budget",
    "save_every",
    "callback",
)

# Sentences that appear on the command line only
_TYPES: dict[str, click.ParamType[Any]] = {
    "lr": RATE,
    "image_size": SIZE,
    "fill": click.Tuple([click.INT, click.INT, click.INT]),
    "levels": click.Tuple([click.FLOAT, click.FLOAT]),
    "workers": click.IntRange(1),
    "time_budget": SECONDS,
    "save_every": SECONDS,
}
_METAVARS = {
    "data": "DATA",
    "backbone": "NAME",
    "strategy": "SPEC",
    "weights": "default|none|TAG|FILE",
    "from_run": "RUN",
    "augment": "NAME[:VALUE]",
    "optimizer": "NAME[:VALUE]",
    "schedule": "NAME[:VALUE]",
    "loss": "NAME[:VALUE]",
    "views": "K",
    "early_stopping": "EPOCHS",
    "image_size": "PIXELS|HxW",
    "fill": "R G B",
    "levels": "LOW HIGH",
    "group": "COLUMN|REGEX",
    "folds": "K",
    "device": "auto|cpu|cuda|rocm|xpu|mps",
    "exclude": "CSV",
    "unknown_rate": "RATE",
    "time_budget": "TIME",
    "save_every": "TIME",
    "callback": "NAME[:VALUE]",
}
_SEE = {
    "data": "See `zoo list datasets`.",
    "backbone": "See `zoo list backbones`.",
    "strategy": "See `zoo list strategies`.",
    "augment": "See `zoo list augmentations`.",
    "loss": "See `zoo list losses`.",
    "optimizer": "See `zoo list optimizers`.",
    "schedule": "See `zoo list schedules`.",
    "callback": "See `zoo list callbacks`.",
    "cache": "See `zoo cache`.",
    "time_budget": "30m and 2h are understood.",
    "save_every": "30s and 5m are understood.",
}


def _option(name: str, kind: Any, doc: str) -> Callable[[F], F]:
    """An option for one setting. "None: ..." at the end of its docstring is shown as the default."""
    default = Experiment.__dataclass_fields__[name].default
    text, _, meaning = doc.partition(" None: ")
    text += f" {_SEE[name]}" if name in _SEE else ""
    text += f"  [default: {meaning.removesuffix('.')}]" if meaning else ""
    flag = option_of(name)
    if kind is bool:
        return click.option(flag, name, is_flag=True, help=text)
    if default == ():
        return click.option(flag, name, multiple=True, metavar=_METAVARS.get(name), help=f"{text}  [default: none]")
    kinds = [one for one in get_args(kind) or (kind,) if one is not type(None)]  # of `X | None`
    values = [value for one in kinds if get_origin(one) is Literal for value in get_args(one)]
    values = values or (kinds if get_origin(kind) is Literal else [])
    given = _TYPES.get(name) or (click.Choice(values) if values else kinds[0])
    optional = not isinstance(default, (str, int, float))
    return click.option(
        flag,
        name,
        type=given,
        default=None if optional else default,
        show_default=not optional,
        metavar=_METAVARS.get(name),
        help=text,
    )


def settings_options(command: F) -> F:
    """Add an option for every setting of an experiment."""
    return _options(command, ORDER)


def preprocessing_options(command: F) -> F:
    """Add the options for how an image becomes the network's input."""
    return _options(command, ("image_size", "fit", "fill"))


def _options(command: F, names: Sequence[str]) -> F:
    hints, docs = get_type_hints(Experiment), attribute_docs(Experiment)
    for name in reversed(names):
        command = _option(name, hints[name], docs[name])(command)
    return command


def with_parent(settings: dict[str, Any], command: str, needed: Sequence[str]) -> dict[str, Any]:
    """The settings with the backbone of the run of `--from`, if there is one and no backbone is given.

    Raises:
        UsageError: one of the settings that are `needed` is missing, or the run cannot be gone on from.
        ZooError: the same.
    """
    path = settings["from_run"]
    given = click.get_current_context().get_parameter_source("weights")
    if path is not None and given is click.core.ParameterSource.COMMANDLINE:
        raise UsageError(
            f"`--from {path}` and `--weights {settings['weights']}`: training starts from the weights of the run",
            hint="leave `--weights` out; or leave `--from` out to start from published weights",
        )
    if path is not None and settings["backbone"] is None:
        from zoo.runs.parent import run_to_go_on_from

        settings = {**settings, "backbone": run_to_go_on_from(path).record["backbone"]}
    missing = [name for name in needed if settings[name] is None]
    if missing:
        raise UsageError(
            f"missing option {' '.join(f'`{option_of(name)}`' for name in missing)}",
            hint=f"see `zoo {command} --help`"
            + ("; to continue a stopped run, use `zoo train --resume RUN`" if command == "train" else ""),
        )
    return settings
