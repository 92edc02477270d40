"""Rerun: the settings of an earlier run trained again, perhaps with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.config.context import Context
from zoo.data.data_argument import check_no_secret
from zoo.errors import UsageError, did_you_mean
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.kept_list import as_it_is_now, with_recorded_names
from zoo.runs.run import Run
from zoo.storage.paths import output_path
from zoo.training import entry
from zoo.training.changes_since import tell_settings


def rerun(
    of: Run | Path | str,
    *,
    changes: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train the settings of a run once more, into a new run.

    A line says which settings differ, another whether the run was made with other versions or threads, and a last one
    whether its images have changed since. With nothing changed, the weights are those of the run, on the CPU in eager
    mode.

    Args:
        of: the run or its folder; it may be unfinished.
        changes: settings of the new run that differ, by the names of `Experiment`.
        out: the new run's folder; None: a new one below `runs/`.
        force: replace the run in `out`.
        plugins: loaded plugins; None: load those installed.
        progress: receives notes, warnings and progress; None: they go to the logger `zoo`.

    Raises:
        UsageError: it is not a run, a final run or the run of a fold; a setting is unknown, or its value is wrong.
        ZooError: its list of `--exclude` is gone, or the new run cannot be trained.
    """
    run = Run.open(of)
    experiment = rerun_experiment(run, changes or {})
    if out is not None and run.path.resolve().is_relative_to(output_path(out).resolve()):
        raise UsageError(f"`{out}` holds the run that is trained again", hint="pass another `--out`")
    context = Context.of(plugins, progress)
    tell_settings(run, experiment, context.progress)
    return entry.train(experiment, out=out, force=force, plugins=context.plugins, progress=progress, again=run)


def rerun_experiment(run: Run, changes: Mapping[str, Any]) -> Experiment:
    """The settings of a run with some of them changed.

    Raises:
        UsageError: the run is a final run or that of a fold; a setting is unknown, or its value is wrong.
        ZooError: its list of `--exclude` is gone.
    """
    run.check_is_trained("trained again")
    if run.is_final:
        raise UsageError(
            f"run `{run.path}` is a final run, which takes epochs and rates from `{run.record['final']['run']}`",
            hint=f"`zoo train --final {run.record['final']['run']}` trains it again",
        )
    if run.experiment.data.startswith("fold:"):
        raise UsageError(
            f"run `{run.path}` is one of several folds",
            hint=f"pass the run that they are of, `{run.path.parent.parent}`",
        )
    known = Experiment.__dataclass_fields__
    for name in changes:
        if name not in known:
            raise UsageError(f"unknown setting `{name}`", hint=did_you_mean(name, known, "see `zoo train --help`"))
        check_no_secret(str(changes[name]), f"`{name}`")
    begun = with_recorded_names(run) if "exclude" in changes else as_it_is_now(run)
    return replace(begun, **changes)
