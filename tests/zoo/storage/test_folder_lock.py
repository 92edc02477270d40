"""One process at a time works in a folder, also where one begins while another ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from messages import refused

from zoo import Study, UsageError, ZooError
from zoo.runs.run_folder import check_folder
from zoo.storage.folder_lock import LOCK_FILE, hold_folder
from zoo.studies import study_folder


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with (
        hold_folder(tmp_path, "training into", "wait"),
        refused(ZooError, "training into", tmp_path.name),
        hold_folder(tmp_path, "training into", "wait"),
    ):
        pass
    with hold_folder(tmp_path, "training into", "wait"):
        pass


def test_who_begins_while_another_ends_is_not_robbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second takes the lock the moment that the first gives it back; a third must not come in beside it."""
    second, release = FileLock(tmp_path / LOCK_FILE), FileLock.release

    def release_and_lose(lock: FileLock, **how: Any) -> None:
        release(lock, **how)
        second.acquire(timeout=0)

    with hold_folder(tmp_path, "training into", "wait"):
        monkeypatch.setattr(FileLock, "release", release_and_lose)
    monkeypatch.undo()
    with refused(ZooError, "training into", tmp_path.name), hold_folder(tmp_path, "training into", "wait"):
        pass
    second.release()


def test_a_lock_that_was_left_alone_hinders_neither_run_nor_study(tmp_path: Path) -> None:
    """A run or a study that failed before its first file leaves an empty folder with a lock."""
    (tmp_path / LOCK_FILE).touch()
    check_folder(tmp_path, force=False)
    study_folder.check_folder(tmp_path, Study(data="digits", backbones=("x",), strategies=("linear",)))
    (tmp_path / "notes.txt").touch()
    with refused(UsageError, tmp_path.name, "exists"):
        check_folder(tmp_path, force=False)
    with refused(UsageError, tmp_path.name, "study"):
        study_folder.check_folder(tmp_path, Study(data="digits", backbones=("x",), strategies=("linear",)))
