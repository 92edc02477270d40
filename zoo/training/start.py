"""Start: what every training run begins with, whether it is one network or one for each fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zoo.config.arguments import check_kind
from zoo.config.references import absolute_strategy, absolute_weights, with_short_teachers
from zoo.data.exclusion import absolute_list
from zoo.data.opening import absolute
from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.runs.parent import inherited
from zoo.runs.run_folder import check_folder, default_folder
from zoo.storage.paths import output_path, user_path
from zoo.training.setup import Setup, resolve


@dataclass(frozen=True, kw_only=True)
class Start:
    """An experiment with absolute paths, its names looked up, and a folder that a run can be made in."""

    experiment: Experiment
    setup: Setup
    folder: Path


def check_experiment(experiment: Experiment) -> None:
    """Check that what `zoo.train` was given is an experiment.

    Raises:
        UsageError: it is not.
    """
    check_kind(experiment, Experiment, "train", "zoo.train(zoo.Experiment(data=..., backbone=..., strategy=...))")


def start_of(experiment: Experiment, out: Path | str | None, force: bool, plugins: Plugins) -> Start:
    """Check an experiment's names and the folder of its run; nothing is written.

    Args:
        experiment: All settings.
        out: The run's folder. None: a new one below `runs/`.
        force: Whether a run in `out` is replaced.
        plugins: Loaded plugins.

    Raises:
        UsageError: a name, a strategy or a setting is wrong, or `out` exists without `force`.
        ZooError: the device is not available, or the folder could not be written.
    """
    check_experiment(experiment)
    data, exclude = absolute(experiment.data, plugins), absolute_list(experiment.exclude)
    experiment = inherited(replace(experiment, data=data, exclude=exclude))
    experiment = replace(
        experiment, weights=absolute_weights(experiment.weights), strategy=absolute_strategy(experiment.strategy)
    )
    if out == "":
        raise UsageError("`--out` is empty", hint="pass a folder, or leave it out for one below `runs/`")
    setup = resolve(experiment, plugins)
    words = with_short_teachers(str(setup.plan)) + ("" if experiment.folds is None else "-folds")
    folder = output_path(out) if out is not None else default_folder(setup.backbone.name, words)
    if setup.parent is not None and setup.parent.run.path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"`{out}` holds the run that the new run goes on from", hint="pass another `--out`")
    for name in (term.distill for term in setup.plan.parts if term.distill is not None):
        if user_path(name).resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"`{out}` holds the run of `distill={name}`", hint="pass another `--out`")
    check_folder(folder, force)
    return Start(experiment=experiment, setup=setup, folder=folder)
