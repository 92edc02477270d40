"""Kept list: the list of `--exclude` as a run or a study read it, in its folder; the user's own may change or go."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.runs.run import EXCLUDE_FILE, Run
from zoo.storage.files import write_bytes
from zoo.storage.paths import user_path


def keep_list(folder: Path, listed: bytes | None) -> None:
    """Write the list of `--exclude` to the folder of a run or a study; None: there is none."""
    if listed is not None:
        write_bytes(folder / EXCLUDE_FILE, listed)


def as_begun(run: Run) -> Experiment:
    """The settings of a run, with the list of `--exclude` that it began with.

    Raises:
        ZooError: as `_kept`.
    """
    kept = _kept(run)
    asked = with_recorded_names(run)
    return asked if kept is None else replace(asked, exclude=str(kept))


def with_recorded_names(run: Run) -> Experiment:
    """The settings of a run, with the qualified names of what is a plugin's: augmentation, loss, optimizer, schedule.

    The short names may mean those of another plugin by now.
    """
    names = {}
    for setting in ("augment", "loss", "optimizer", "schedule"):
        choice = run.record.get(setting)
        if choice is not None and choice["distribution"] is not None:
            name = re.match(r"[^:,]*", getattr(run.experiment, setting))
            assert name is not None
            names[setting] = choice["name"] + getattr(run.experiment, setting)[name.end() :]
    return replace(run.experiment, **names)


def as_it_is_now(run: Run) -> Experiment:
    """The settings of a run, with the list of `--exclude` that is there now, or the one it kept where that is gone.

    Raises:
        ZooError: neither is there.
    """
    asked = with_recorded_names(run)
    if asked.exclude is None or user_path(asked.exclude).is_file():
        return asked
    kept = _kept(run)
    if kept is None:
        raise ZooError(
            f"the list of `--exclude`, `{asked.exclude}`, is gone, and run `{run.path}` keeps none",
            hint="write it again: a CSV with the column `id`, and the ids that `run.json` has under `exclude`",
        )
    return replace(asked, exclude=str(kept))


def with_kept_list(asked: Experiment, folder: Path, progress: Progress | None = None) -> Experiment:
    """The settings of a study's trial, with the list of `--exclude` that the study keeps in `folder`, if it does."""
    kept = folder / EXCLUDE_FILE
    if asked.exclude is None or not kept.is_file():
        return asked
    theirs = user_path(asked.exclude)
    if progress is not None and theirs.is_file() and theirs.read_bytes() != kept.read_bytes():
        progress.warn(f"`--exclude {theirs}` has changed since the study began, which goes on with `{kept}`")
    return replace(asked, exclude=str(kept.resolve()))


def _kept(run: Run) -> Path | None:
    """The list that a run keeps; None: it has none, as one of an earlier version of zoo.

    Raises:
        ZooError: it is not the one that the run began with.
    """
    file, recorded = run.path / EXCLUDE_FILE, run.record.get("exclude")
    if run.experiment.exclude is None or not file.is_file() or not isinstance(recorded, dict):
        return None
    if hashlib.sha256(file.read_bytes()).hexdigest() != recorded.get("sha256"):
        raise ZooError(
            f"`{file}`, the list of `--exclude` that the run keeps, has changed since the run began",
            hint=f"copy the list over it again, which was `{recorded.get('file')}`",
        )
    return file.resolve()
