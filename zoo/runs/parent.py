"""Parent: the finished run whose weights another run starts from (`--from`), and the settings that come with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.config.references import is_weights_file
from zoo.data.class_names import keys
from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.preprocess import FIT_SETTINGS
from zoo.runs.run import RUN_FILE, Run
from zoo.runs.source_run import SourceRun, check_is_source, open_source
from zoo.storage.paths import user_path

OPTION = "--from"


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """The classes of a run and of its parent, matched by name in any Unicode form.

    Attributes:
        kept: Classes of both, as the new run spells them.
        new: Classes that the parent does not have.
        dropped: Classes that the parent alone has.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, parent: tuple[str, ...], classes: tuple[str, ...]) -> ClassMatch:
        """Match the classes of a parent with those of the run that goes on from it."""
        theirs, mine = set(keys(parent)), set(keys(classes))
        return cls(
            kept=tuple(name for name, key in zip(classes, keys(classes)) if key in theirs),
            new=tuple(name for name, key in zip(classes, keys(classes)) if key not in theirs),
            dropped=tuple(name for name, key in zip(parent, keys(parent)) if key not in mine),
        )

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) for name, value in vars(self).items()}


def run_to_go_on_from(path: Path | str) -> Run:
    """Open a finished run that is one network; its weights are not looked at.

    Raises:
        UsageError: it is not a run, but for instance an exported file.
        ZooError: it is not finished, or is several networks.
    """
    folder = user_path(path)
    if folder.is_file():
        owner = folder.parent if (folder.parent / RUN_FILE).is_file() else None
        raise UsageError(
            f"`{OPTION} {path}` is a file, and a run goes on from the folder of a run: an exported file has no weights "
            "that can be trained, since its layers are merged and perhaps rounded",
            hint=f"pass its run, `{OPTION} {owner}`" if owner else "pass the run that it was exported from",
        )
    if not folder.exists():
        raise UsageError(f"there is no run `{path}`", hint=f"`{OPTION}` takes the folder that `zoo train` made")
    run = Run.open(folder)
    check_is_source(run)
    if isinstance(run.record.get("ensemble"), dict):
        raise UsageError(
            f"run `{run.path}` is an ensemble of several networks, and a run goes on from one",
            hint="pass one of its members, which `run.json` names under `ensemble`, or a soup of them",
        )
    return run


def open_parent(path: Path | str) -> SourceRun:
    """Open the run that another run goes on from, and check its weights.

    Raises:
        UsageError, ZooError: as `run_to_go_on_from`; or the weights are missing, or are not those that it ended with.
    """
    return open_source(run_to_go_on_from(path))


def inherited(experiment: Experiment) -> Experiment:
    """The settings of a run with those that come from its parent, if it has one: how images become the input.

    Raises:
        UsageError: a setting contradicts the parent's, or the parent is not a run.
        ZooError: the parent cannot be gone on from.
    """
    if experiment.from_run is None:
        return experiment
    run = run_to_go_on_from(experiment.from_run)
    theirs, used = run.experiment, run.preprocess
    fit = FIT_SETTINGS[used.fit]
    wrong = []
    for name, value in (("image_size", used.crop), ("fit", fit), ("fill", used.fill), ("levels", used.levels)):
        asked = getattr(experiment, name)
        if asked is not None and asked not in (getattr(theirs, name), value):
            wrong.append(f"`--{name.replace('_', '-')} {_told(asked)}`, where the run has {_told(value)}")
    tag = "default" if is_weights_file(theirs.weights) else theirs.weights
    if experiment.weights not in ("default", tag):
        wrong.append(f"`--weights {experiment.weights}`, where the weights are those of the run")
    if wrong:
        raise UsageError(
            f"`{OPTION} {experiment.from_run}` and {' and '.join(wrong)}",
            hint=f"leave {'it' if len(wrong) == 1 else 'them'} out: with `{OPTION}` the run decides",
        )
    return replace(
        experiment,
        from_run=str(run.path.resolve()),
        weights=tag,
        image_size=theirs.image_size,
        fit=theirs.fit,
        fill=theirs.fill,
        levels=theirs.levels,
    )


def check_backbone(parent: SourceRun, asked: str) -> None:
    """Check that a run names the backbone of its parent; `asked` is the qualified name.

    Raises:
        UsageError: it names another.
    """
    if parent.backbone != asked:
        raise UsageError(
            f"run `{parent.run.path}` is of `{parent.backbone}`, and `--backbone {asked}` is another network",
            hint=f"leave `--backbone` out, or leave `{OPTION}` out",
        )


def check_unchanged(run: Run) -> None:
    """Check that the parent of a stopped run is still there with the weights that the run began with.

    Raises:
        ZooError: it is gone, or has other weights.
    """
    recorded = run.record.get("from")
    if not isinstance(recorded, dict):
        return
    what = f"run `{run.path}` goes on from `{recorded['run']}`, whose weights it needs to be resumed"
    hint = "restore that folder, or start a new run with `zoo train`"
    try:
        found = open_parent(recorded["run"])
    except ZooError as error:
        raise ZooError(f"{what}: {error.message}", hint=hint) from error
    if not found.has_weights_of(recorded):
        raise ZooError(f"{what}, and they have changed since", hint=hint)


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return str(value)
