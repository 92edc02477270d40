"""Search phase of a study: which storage it uses, and its worker process, which is replaced where a trial kills it."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import StorageLost, UsageError, ZooError
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.runs.looks import STUDY_FILE
from zoo.storage.files import read_json, write_json
from zoo.studies.executor import LocalProcess, LocalProcesses
from zoo.studies.results import TUNED_FILE
from zoo.studies.search_storage import EXAMPLES, GRACE, VARIABLE, SearchPlace, absolute_storage, masked
from zoo.studies.study import Study
from zoo.studies.trial import Trial
from zoo.system.worker_process import WorkerFailed


def search_place(
    asked: Study,
    trials: Sequence[Trial],
    folder: Path,
    storage: str | None,
    name: str | None,
    grace: float | None,
) -> SearchPlace | None:
    """The storage in which a study searches; None: its own, or it does not search.

    Args:
        asked: The study.
        trials: Its trials.
        folder: Its folder; one that was begun with a storage goes on with it.
        storage: The storage that was asked for. None: that of `ZOO_STORAGE`, if it is set.
        name: The name of the study there that was asked for.
        grace: The grace period that was asked for, in seconds.

    Raises:
        UsageError: a value is wrong, or has no meaning.
        ZooError: the storage's driver is not installed, or its password is missing.
    """
    if not asked.search:
        if (storage, name, grace) != (None, None, None):
            raise UsageError(
                "`--storage`, `--study-name` and `--grace-period` apply with `--search` only",
                hint="such as `--search 40`",
            )
        return None
    record = read_json(folder / STUDY_FILE) if (folder / STUDY_FILE).is_file() else {}
    asked_for, storage = storage, session_storage(storage)
    known = record.get("storage")
    ended = bool(record) and {trial.configuration for trial in trials} <= set(read_tuned(folder))
    if ended:
        same = storage is not None and isinstance(known, str) and _place(absolute_storage(storage)) == _place(known)
        if (asked_for is not None and not same) or name not in (None, record.get("study_name")):
            where = f" in `{known}`, as `{record.get('study_name')}`" if isinstance(known, str) else ""
            raise UsageError(
                f"the search of `{folder}` has ended{where}, so that `--storage` and `--study-name` change nothing",
                hint="leave them out, or search again in another `--out`",
            )
        if not same:
            return None
    if storage is None and isinstance(known, str):
        if "***" in known:
            raise ZooError(
                f"the search of `{folder}` is in `{known}`, whose password is not kept",
                hint=f"pass `--storage` again, or set {VARIABLE}",
            )
        storage = known
    if storage is None:
        if (name, grace) != (None, None):
            raise UsageError("`--study-name` and `--grace-period` apply with `--storage` only", hint=EXAMPLES)
        return None
    found = name if name is not None else str(record.get("study_name") or folder.absolute().name)
    return SearchPlace(storage=absolute_storage(storage), name=found, grace=GRACE if grace is None else grace)


def _place(storage: str) -> str:
    """A storage without its password and without a trace of one, to compare it with that of `study.json`."""
    return masked(storage).replace(":***@", "@")


def session_storage(asked: str | None) -> str | None:
    """The storage that was asked for or, where none was, that of `ZOO_STORAGE`, if it is set."""
    return asked if asked is not None else os.environ.get(VARIABLE) or None


def read_tuned(folder: Path) -> dict[str, Any]:
    """The settings that were found so far, by configuration."""
    file = folder / TUNED_FILE
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def tune(
    study: Study,
    folder: Path,
    experiments: Mapping[str, Experiment],
    local: LocalProcess | LocalProcesses,
    progress: Progress,
    *,
    place: SearchPlace | None,
    until: float | None,
    leads: bool,
) -> dict[str, Any]:
    """Search settings for each configuration in turn; returns those that were found, by configuration.

    Args:
        study: The study.
        folder: Its folder.
        experiments: An experiment of each configuration that is searched.
        local: Worker processes of this machine.
        progress: Receives reports.
        place: A storage that other sessions may share. None: the folder's own.
        until: Time of the monotonic clock after which no further trial of the search begins. None: no limit.
        leads: Whether this session writes what was found; one that helps another does not.

    Raises:
        StorageLost: the storage cannot be used, or holds another search of this name.
    """
    if not study.search:
        return read_tuned(folder)
    session = secrets.token_hex(8)
    for configuration, experiment in experiments.items():
        found = read_tuned(folder)
        if configuration in found:
            continue
        progress.start(f"search {configuration}", 0)
        try:
            one = _search(study, folder, experiment, local, progress, place, until, session)
        except WorkerFailed as failure:
            if failure.kind is StorageLost:
                raise StorageLost(failure.reason, hint=failure.hint) from None
            one = {"settings": None, "failure": failure.reason}
            progress.warn(f"search {configuration} failed: {failure.reason}")
        if leads:
            write_json(folder / TUNED_FILE, {**read_tuned(folder), configuration: one})
        progress.note(f"search {configuration}: {_told(one)}")
    return read_tuned(folder)


def _search(
    study: Study,
    folder: Path,
    experiment: Experiment,
    local: LocalProcess | LocalProcesses,
    progress: Progress,
    place: SearchPlace | None,
    until: float | None,
    session: str,
) -> dict[str, Any]:
    """Have a worker search, and another one where a trial kills it.

    Raises:
        WorkerFailed: the search cannot go on.
    """
    deaths = 0
    while True:
        try:
            return local.ask(
                "search",
                experiment=experiment.to_json(),
                given=list(study.settings),
                count=study.search,
                folder=str(folder),
                seconds=None if until is None else max(until - time.monotonic(), 1.0),
                pruner=study.pruner,
                place=None if place is None else dataclasses.asdict(place),
                session=session,
            )
        except WorkerFailed as failure:
            deaths += 1
            if not failure.died or deaths > 2 * study.search:
                raise
            progress.warn(f"a trial of the search ended its process, and is repeated once: {failure.reason}")


def _told(found: Mapping[str, Any]) -> str:
    if "note" in found or "tried" not in found:
        return str(found.get("note") or found.get("settings"))
    counts = f"{found['tried']} tried, {found['pruned']} pruned, {found['failed']} failed"
    return f"{found['settings']}, the best of {counts}"
