"""Run folder: named, checked, made, and cleared for a run that replaces another."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from zoo.errors import DiskFull, UsageError, ZooError, is_disk_full
from zoo.runs.run import (
    CALLBACKS,
    EXCLUDE_FILE,
    FOLDS,
    HISTORY_FILE,
    LEDGER_FILE,
    RATES_FILE,
    RUN_FILE,
    SPLITS_FILE,
    UNKNOWN_FILE,
)
from zoo.storage.folder_lock import LOCK_FILE

# The files that `--force` deletes; notes, photographs and other files that a user keeps in the folder stay
OWN_FILES = (
    RUN_FILE,
    HISTORY_FILE,
    LEDGER_FILE,
    SPLITS_FILE,
    RATES_FILE,
    EXCLUDE_FILE,
    UNKNOWN_FILE,
    "model.*",
    "checkpoint*.safetensors",
    ".checkpoint*",
    "predictions-*.safetensors",
    "latency.json",
    "events.out.tfevents.*",
)


def default_folder(backbone: str, strategy: str) -> Path:
    """A new folder `runs/<time>-<backbone>-<strategy>`, without special characters of shells and file systems."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    words = (
        f"{backbone.split('/')[-1]}-{strategy}".replace(":", "").replace("+", "-").replace(",", "-").replace("=", "")
    )
    first = Path("runs") / f"{time}-{words}".replace("/", "-")
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())


def check_folder(path: Path, force: bool) -> None:
    """Check that a run's folder can be made; nothing is changed.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something other than a run.
        ZooError: it could not be written.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"`{path}` is a file", hint="pass another `--out`")
        if path.is_dir() and any(file.name != LOCK_FILE for file in path.iterdir()):
            if not force:
                raise UsageError(f"`{path}` exists", hint="pass another `--out`, or `--force` to replace it")
            if not (path / RUN_FILE).is_file():
                raise UsageError(
                    f"`{path}` exists and is not a run, so `--force` does not replace it", hint="pass another `--out`"
                )
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise _unwritable(path, f"`{existing}` is not a folder that you may write to")


def check_not_own(file: Path) -> None:
    """Check that a file which a command is to write is none of a run's own.

    Raises:
        UsageError: it is.
    """
    if (file.parent / RUN_FILE).is_file() and any(file.match(pattern) for pattern in OWN_FILES):
        raise UsageError(
            f"`{file}` belongs to the run in `{file.parent}`, which would be damaged", hint="pass another `--out`"
        )


def make_folder(path: Path) -> None:
    """Make a run's folder if it does not exist.

    Raises:
        ZooError: it cannot be made.
        DiskFull: the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error


def clear_folder(path: Path, force: bool) -> None:
    """Delete the files of the run that `force` replaces, and nothing else in the folder.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something other than a run.
        ZooError: it cannot be written.
    """
    check_folder(path, force)
    try:
        for pattern in OWN_FILES:
            for file in path.glob(pattern):
                file.unlink()
        if (path / CALLBACKS).is_dir():
            shutil.rmtree(path / CALLBACKS)
        for fold in path.glob(f"{FOLDS}/*"):
            if fold.name.isdigit() and (fold / RUN_FILE).is_file():
                shutil.rmtree(fold)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error


def _unwritable(path: Path, reason: str | None, *, full: bool = False) -> ZooError:
    kind = DiskFull if full else ZooError
    return kind(f"run folder `{path}` cannot be made: {reason}", hint="pass `--out` a folder that you may write to")
