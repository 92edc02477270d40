"""Name resolution: the backbone, strategy and weights that an experiment names. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.backbone import Backbone, Weights
from zoo.catalogue import Entry
from zoo.config.callbacks import choose_callbacks
from zoo.config.choice import Choice, check_installed, choose
from zoo.config.grammar import ParsedStrategy, parse
from zoo.errors import UsageError, at_once
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.storage.paths import user_path

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_TEACHER = re.compile(r"(,\s*distill\s*=\s*)([^,+]*[^,+\s])")  # what stands before the path, and the path


@dataclass(frozen=True, kw_only=True)
class References:
    """The backbone, strategy and weights that an experiment names.

    Attributes:
        backbone: The backbone, as its catalogue has it.
        plan: The strategy.
        weights: The published weights to start from. None: a file, or random weights.
        weights_file: The file of weights to start from, if one is given.
        preprocess: The preprocessing for the input size of the experiment.
        augment: The augmentation.
        loss: The loss of optimiser steps.
        optimizer: The optimizer.
        schedule: The learning-rate schedule.
        callbacks: What observes the run.
    """

    backbone: Entry[Backbone]
    plan: ParsedStrategy
    weights: Weights | None
    weights_file: Path | None
    preprocess: Preprocess
    augment: Choice
    loss: Choice
    optimizer: Choice
    schedule: Choice
    callbacks: tuple[Choice, ...] = ()


def look_up(experiment: Experiment, plugins: Plugins) -> References:
    """Look up everything that an experiment names, before any other work is done.

    Raises:
        UsageError: a name is unknown (all unknown names are reported together), or two settings exclude each other.
    """
    problems: list[UsageError] = []
    try:
        backbone = plugins.backbones.find(experiment.backbone)
    except UsageError as error:
        problems.append(error)
    try:
        plan = parse(experiment.strategy, plugins.strategies)
    except UsageError as error:
        problems.append(error)
    choices: dict[str, Choice] = {}
    for setting, catalogue in (
        ("augment", plugins.augmentations),
        ("loss", plugins.losses),
        ("optimizer", plugins.optimizers),
        ("schedule", plugins.schedules),
    ):
        try:
            choices[setting] = choose(getattr(experiment, setting), catalogue, plugins)
            if setting == "augment":
                check_installed(choices[setting])
        except UsageError as error:
            problems.append(error)
    callbacks, unusable = choose_callbacks(experiment.callback, plugins)
    problems += unusable
    if problems:
        raise at_once(problems)
    weights: Weights | None = None
    file: Path | None = None
    asked = experiment.weights
    if experiment.from_run is not None:
        if not plan.pretrained:
            raise UsageError(
                f"strategy `{plan}` starts from random weights, `--from {experiment.from_run}` would be ignored",
                hint="leave `--from` out, or use `full`",
            )
    elif is_weights_file(asked):
        file = user_path(asked)
        if file.is_dir():
            raise UsageError(f"`{asked}` is a folder, not a file of weights", hint="pass the file in it")
        if not file.is_file():
            raise UsageError(
                f"there is no file of weights `{asked}`", hint="`--weights` takes default, none, a tag or a file"
            )
    elif asked != "default" or plan.pretrained:
        weights = backbone.value.find_weights(asked)
    if not plan.pretrained and (weights is not None or file is not None):
        raise UsageError(
            f"strategy `{plan}` starts from random weights, `--weights {asked}` would be ignored",
            hint="leave `--weights` out, or use `full`",
        )
    known = weights or (backbone.value.weights[0] if backbone.value.weights else None)
    if experiment.from_run is not None:  # of the run, whose preprocessing is that of these weights
        known = next((one for one in backbone.value.weights if one.tag == asked), known)
    base = known.preprocess if known is not None else backbone.value.preprocess
    return References(
        backbone=backbone,
        plan=plan,
        weights=weights,
        weights_file=file,
        **choices,
        callbacks=callbacks,
        preprocess=replace(
            base.at(experiment.image_size).fitted(experiment.fit, experiment.fill), levels=experiment.levels
        ),
    )


def absolute_weights(text: str, base: Path | None = None) -> str:
    """The text of `--weights` with a path made absolute, so that a run finds its file from any folder.

    Args:
        text: The text; `default`, `none` and tags are unchanged.
        base: The folder that a relative path begins at. None: the current one.
    """
    return str(((base or Path()) / user_path(text)).absolute()) if is_weights_file(text) else text


def absolute_strategy(text: str, base: Path | None = None) -> str:
    """The text of `--strategy` with the path of a teacher made absolute, so that a run finds it from any folder.

    Args:
        text: The text; all but the paths in `distill=` is unchanged.
        base: The folder that a relative path begins at. None: the current one.

    Raises:
        UsageError: the absolute path has a `,` or `+`, which end a value in a strategy.
    """

    def resolved(found: re.Match[str]) -> str:
        path = str(((base or Path()) / user_path(found[2])).absolute())
        if re.search(r"[,+]", path):
            raise UsageError(
                f"`distill={found[2]}`: `,` and `+` cannot stand in the path of a teacher, which is `{path}`",
                hint="pass a link to its folder, made with `ln -s`",
            )
        return found[1] + path

    return _TEACHER.sub(resolved, text)


def teachers_of(strategy: str) -> tuple[str, ...]:
    """The paths of the teachers that the text of a strategy names, each once."""
    return tuple(dict.fromkeys(found[2] for found in _TEACHER.finditer(strategy)))


def with_short_teachers(strategy: str) -> str:
    """The text of a strategy with the name of a teacher's folder in place of its path."""
    return _TEACHER.sub(lambda found: found[1] + Path(found[2]).name, strategy)


def needs_validation(experiment: Experiment, plugins: Plugins) -> bool:
    """Whether training needs validation images: for early stopping, `--keep best` or a schedule that follows the loss.

    Raises:
        UsageError: the schedule is unknown, or its options are wrong.
    """
    return (
        experiment.chooses or choose(experiment.schedule, plugins.schedules, plugins).entry.value.lowering is not None
    )


def is_weights_file(text: str) -> bool:
    """Whether what `--weights` was given is a file."""
    return Path(text).suffix.lower() in WEIGHTS_SUFFIXES or "/" in text or "\\" in text
