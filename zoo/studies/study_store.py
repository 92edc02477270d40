"""Study store: a study whose machines share no folder. Workers put runs into an object store; the session gets them.

session.json                    which study it is, and the session that goes on
claims/NAME/000001.json         who carries out a trial, or the session itself; `.beat` is its last sign of life
inputs/SHA256                   the list of `--exclude`, and a file of weights
trials/NAME/000001/             the run of a trial, by the number of its claim
trials/NAME/finished.json       its files with their SHA-256, and its outcome: created last, and once
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.runs.looks import STUDY_FILE, TRIALS
from zoo.runs.run import now
from zoo.storage.cache import cache_folder
from zoo.storage.files import SCHEMA, json_text, read_json, unwritable, write_bytes
from zoo.storage.folder_lock import LOCK_FILE
from zoo.storage.object_store import ObjectStore, hold, note_of, open_store
from zoo.storage.paths import user_path
from zoo.studies.trial import Trial, TrialResult

SESSION = "session.json"
MARKER = "finished.json"
BEAT = 5.0  # seconds between two signs of life of a worker, and of a session
FILES = ("weights", "exclude")  # settings that may name a file, which a worker gets


class StoreSession:
    """The session's side: one session at a time, wherever it runs."""

    def __init__(self, address: str, beat: float = BEAT) -> None:
        """Open the store; nothing is written yet.

        Raises:
            UsageError: the address names no place, or holds a secret.
            ZooError: what it takes is not installed.
        """
        self.store = open_store(address)
        self._beat = beat
        self._held = ExitStack()
        self._study: dict[str, str] = {}
        self._token = ""

    def begin(self, folder: Path) -> str:
        """Begin a session of the study in a folder, and name it.

        Raises:
            UsageError: the store holds another study.
            ZooError: another session goes on, or the store cannot be used.
        """
        self.store.check()
        digest = study_digest(read_json(folder / STUDY_FILE)["study"])
        self._check_study(digest)

        def refuse(note: dict[str, Any]) -> None:
            raise ZooError(
                f"another session carries out this study, on `{note.get('host')}`, as process {note.get('process')}, "
                f"since {note.get('time')}",
                hint="wait for it, or stop it",
            )

        self._held.enter_context(hold(self.store, "session", _note(), self._beat, refuse))
        self._check_study(digest)  # another study may have had it until now
        token = secrets.token_hex(8)
        self._study = {"study": digest}
        self.store.write(SESSION, _json({"schema": SCHEMA, **self._study, "session": token, "host": platform.node()}))
        self._token = token
        return token

    def _check_study(self, digest: str) -> None:
        there = note_of(self.store.read(SESSION))
        if there and there.get("study") != digest:
            raise UsageError(f"`{self.store.url}` holds another study", hint="pass another prefix or folder")

    def end(self) -> None:
        """Have no further trial begin, unless they are of a session that took over from this one, which was silent."""
        try:
            if self._study and note_of(self.store.read(SESSION)).get("session") == self._token:
                self.store.write(SESSION, _json({"schema": SCHEMA, **self._study, "session": None}))
        finally:
            self._study = {}
            self._held.close()

    def finished(self, name: str) -> bool:
        """Whether the finished run of a trial is in the store.

        Raises:
            ZooError: the store cannot be read.
        """
        return self.store.read(f"{TRIALS}/{name}/{MARKER}") is not None

    def request(self, experiment: Experiment, folder: Path) -> dict[str, Any]:
        """What a worker needs besides the settings: the store, and the files that settings name, which are put there.

        Args:
            experiment: The settings.
            folder: Of the trial on this machine, by which its run names itself.

        Raises:
            DiskFull, ZooError: the store cannot be written.
        """
        inputs = {}
        for setting in FILES:
            value = getattr(experiment, setting)
            file = None if value is None else user_path(value)
            if file is not None and file.is_file():
                data = file.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                self.store.create(f"inputs/{digest}", data)
                inputs[setting] = {"sha256": digest, "name": file.name}
        return {
            "store": self.store.url,
            "digest": self._study["study"],
            "beat": self._beat,
            "inputs": inputs,
            "folder": str(folder),
        }

    def fetch(self, trial: Trial, folder: Path) -> TrialResult | None:
        """Get the finished run of a trial from the store; None where there is none.

        Raises:
            DiskFull, ZooError: the store cannot be read, a file of the run is missing or damaged, or the study's
                folder cannot be written.
        """
        written = self.store.read(f"{TRIALS}/{folder.name}/{MARKER}")
        if written is None:
            return None
        marker, new = note_of(written), None
        try:
            outcome = replace(TrialResult.from_json(marker["outcome"]), trial=trial)
            files = {_inside(str(name)): str(sha256) for name, sha256 in marker["files"].items()}
            attempt = f"{TRIALS}/{folder.name}/{int(marker['attempt']):06d}"
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(MARKER, folder.name) from error
        try:
            new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            for name, sha256 in files.items():
                data = self.store.read(f"{attempt}/{name}")
                if data is None or hashlib.sha256(data).hexdigest() != sha256:
                    raise self._damaged(name, folder.name)
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
            shutil.rmtree(folder, ignore_errors=True)
            new.chmod(0o755)
            new.replace(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            if new is not None:
                shutil.rmtree(new, ignore_errors=True)
        return outcome

    def _damaged(self, name: str, trial: str) -> ZooError:
        return ZooError(
            f"`{name}` of the run of {trial} is missing or damaged in `{self.store.url}`",
            hint=f"delete `{TRIALS}/{trial}/` there, and the trial is trained again",
        )


def carry_out_from_store(
    request: Mapping[str, Any], train: Callable[[Experiment, Path], TrialResult]
) -> dict[str, Any]:
    """Carry out a trial on a machine that shares no folder with the session; a finished one is not repeated.

    Args:
        request: Of `StoreSession.request` and `RemoteExecutor`.
        train: Checks this machine, trains in a folder, and tells the outcome.

    Returns:
        The outcome, that of `TrialResult.to_json`.

    Raises:
        DiskFull: the disk, or the store, is full.
        ZooError: the session has ended, the store cannot be used, or this machine may not train the trial.
    """
    store, name = open_store(request["store"]), str(request["name"])
    _check_session(store, request)
    with hold(store, name, _note(), request["beat"]) as held:
        _check_session(store, request)
        marker = f"{TRIALS}/{name}/{MARKER}"
        written = store.read(marker)
        # kept where the trial is not finished, so that this machine goes on from its checkpoint
        place = hashlib.sha256(f"{request['digest']} {store.url}".encode()).hexdigest()[:16]
        scratch = (cache_folder() or Path(tempfile.gettempdir())) / "trials" / place
        folder = scratch / TRIALS / name
        if written is not None:
            shutil.rmtree(folder, ignore_errors=True)
            outcome = note_of(written).get("outcome")
            if not isinstance(outcome, dict):
                raise ZooError(f"finds a damaged `{marker}` in `{store.url}`", hint="delete it, and continue the study")
            return outcome
        folder.parent.mkdir(parents=True, exist_ok=True)
        asked = Experiment.from_json(request["experiment"])
        inputs = _inputs(store, request["inputs"], scratch)
        result = train(Experiment.from_json({**asked.to_json(), **inputs}), folder)
        if not result.finished:
            return result.to_json()
        theirs = {file: getattr(asked, setting) for setting, file in inputs.items()}
        _name_files_of_session(folder, theirs | {str(folder): request["folder"]})
        files = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name != LOCK_FILE:
                files[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        for part in files:
            store.upload(f"{TRIALS}/{name}/{held.number:06d}/{part}", folder / part)
        content = {"schema": SCHEMA, "attempt": held.number, "files": files, "outcome": result.to_json(), **_note()}
        if held.lost or not store.create(marker, _json(content)):
            raise ZooError(
                f"was silent for so long that another one took over {name}, and its own run is dropped",
                hint="is the network steady? `zoo study FOLDER` continues the study",
            )
        shutil.rmtree(folder, ignore_errors=True)
        return result.to_json()


def _inside(name: str) -> str:
    """The name of a file of a run, which lies in the run's folder.

    Raises:
        ValueError: it does not.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(name)
    return name


def study_digest(described: Mapping[str, Any]) -> str:
    """A digest of what a study asks for, as `study.json` has it; the time budget may change."""
    asked = {name: value for name, value in described.items() if name != "time_budget"}
    return hashlib.sha256(json_text(asked, sort_keys=True, ascii_only=True).encode()).hexdigest()


def _check_session(store: ObjectStore, request: Mapping[str, Any]) -> None:
    if note_of(store.read(SESSION)).get("session") != request["session"]:
        raise ZooError(
            f"sees no or another session in `{store.url}`, so that this trial does not begin",
            hint="the store is another one on that machine, or the study was stopped or continued meanwhile",
        )


def _inputs(store: ObjectStore, wanted: Mapping[str, Mapping[str, str]], scratch: Path) -> dict[str, str]:
    """The files that settings name, on this machine.

    Raises:
        ZooError: the store does not have one, or it is damaged.
    """
    found = {}
    for setting, one in wanted.items():
        file = scratch / "inputs" / one["sha256"] / Path(one["name"]).name
        if not file.is_file():
            data = store.read(f"inputs/{one['sha256']}")
            if data is None or hashlib.sha256(data).hexdigest() != one["sha256"]:
                raise ZooError(
                    f"finds no `{one['name']}` in `{store.url}`, or a damaged one", hint="run the study anew"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{secrets.token_hex(8)}")
            temporary.write_bytes(data)
            temporary.replace(file)
        found[setting] = str(file)
    return found


def _name_files_of_session(folder: Path, theirs: Mapping[str, str]) -> None:
    """Have a run name itself and its files as the session does, by this machine's names: its copies are its own."""
    for file in sorted({*folder.rglob("*.json"), *folder.rglob("*.jsonl")}):
        before = text = file.read_text(encoding="utf-8")
        for here, there in theirs.items():
            text = text.replace(json_text(here)[1:-1], json_text(there)[1:-1])
        if text != before:
            write_bytes(file, text.encode())


def _note() -> dict[str, Any]:
    return {"schema": SCHEMA, "host": platform.node(), "process": os.getpid(), "time": now()}


def _json(data: Any) -> bytes:
    return (json_text(data, indent=2) + "\n").encode()
