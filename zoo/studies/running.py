"""Trials that run on other machines: which, where, and for which session; a trial is carried out by one at a time.

The study's folder has `running/session.json`, which the session writes, and for each trial that runs a note and a lock.
The lock is the system's, so that it is given up with the process that holds it, and no clocks are compared.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.errors import ZooError, quoted
from zoo.runs.looks import TRIALS
from zoo.runs.run import now
from zoo.storage.files import SCHEMA, read_json, write_json
from zoo.storage.folder_lock import LOCK_FILE

FOLDER = "running"
SESSION_FILE = "session.json"
SHARED_SECONDS = 10.0  # in which a file of the session must be seen by a worker: network file systems cache


def begin_session(study: Path) -> str:
    """Name a session of a study; trials of earlier sessions that have not begun yet will not begin any more."""
    token = secrets.token_hex(8)
    (study / FOLDER).mkdir(exist_ok=True)
    write_json(study / FOLDER / SESSION_FILE, {"schema": SCHEMA, "session": token, "host": platform.node()})
    return token


def end_session(study: Path) -> None:
    """Have no further trial of this session begin."""
    (study / FOLDER / SESSION_FILE).unlink(missing_ok=True)


def check_session(study: Path, token: str, wait: float = SHARED_SECONDS) -> None:
    """Check, on the machine of a worker, that it sees the study's folder and that the session goes on.

    Raises:
        ZooError: it does not.
    """
    file, until = study / FOLDER / SESSION_FILE, time.monotonic() + wait
    while not file.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    if not study.is_dir():
        raise ZooError(
            f"does not see the study's folder `{study}`", hint="the study must be in a folder that all machines share"
        )
    if not file.is_file() or read_json(file).get("session") != token:
        raise ZooError(
            f"sees no or another session in `{study}`, so that this trial does not begin",
            hint="the folder is another one on that machine, or the study was stopped or continued meanwhile",
        )


@contextmanager
def hold_trial(study: Path, name: str, token: str) -> Iterator[None]:
    """Carry out a trial within a `with` block: whoever else does is waited for, such as one whose session was killed.

    Raises:
        ZooError: the session has ended meanwhile, or the folder cannot be locked.
    """
    folder = study / FOLDER
    lock = FileLock(folder / f"{name}.lock")
    note = folder / f"{name}.json"
    try:
        lock.acquire()
        if (study / TRIALS / name).is_dir():  # a process that was to end with its parent may take a moment
            with FileLock(study / TRIALS / name / LOCK_FILE):
                pass
    except (OSError, NotImplementedError) as error:
        lock.release()
        raise ZooError(
            f"cannot lock files in `{folder}`: {quoted(error)}", hint="use a shared folder with locks, such as NFS 4"
        ) from error
    try:
        check_session(study, token)
        write_json(note, {"schema": SCHEMA, "host": platform.node(), "process": os.getpid(), "time": now()})
        yield
        note.unlink(missing_ok=True)
    finally:
        lock.release()


def wait_for_trial(study: Path, name: str, until: float | None = None) -> None:
    """Wait while a worker carries out a trial, at most until that time of the monotonic clock."""
    while name in running_trials(study) and (until is None or time.monotonic() < until):
        time.sleep(0.2)


def running_trials(study: Path) -> dict[str, dict[str, Any]]:
    """By its name, the note of each trial that runs at the moment: `host`, `process`, and the `time` when it began."""
    found = {}
    for file in sorted((study / FOLDER).glob("*.json")):
        if file.name == SESSION_FILE:
            continue
        lock = FileLock(file.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
            lock.release()  # nobody holds it: the process was killed
        except Timeout:
            try:
                found[file.stem] = read_json(file)
            except ZooError:  # it ended just now
                continue
        except (OSError, NotImplementedError):
            continue
    return found
