"""Run folder: named, checked, made, and cleared for a run that replaces another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from zoo.storage.files import unwritable
from zoo.storage.folder_lock import LOCK_FILE, hold_folder

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


MAKING = ".making-"  # a folder of files that are not complete


def default_folder(backbone: str, strategy: str) -> Path:
    """A new folder `runs/<time>-<backbone>-<strategy>`, without special characters of shells and file systems."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    words = (
        f"{backbone.split('/')[-1]}-{strategy}".replace(":", "").replace("+", "-").replace(",", "-").replace("=", "")
    )
    first = Path("runs") / f"{time}-{words}".replace("/", "-")
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())


def _is_left(file: Path) -> bool:
    """Whether a process that was killed while it made a run has left this folder."""
    return file.name.startswith(MAKING)


def check_folder(path: Path, force: bool) -> None:
    """Check that a run's folder can be made; nothing is changed.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something other than a run.
        ZooError: it could not be written.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"`{path}` is a file", hint="pass another `--out`")
        if path.is_dir() and any(file.name != LOCK_FILE and not _is_left(file) for file in path.iterdir()):
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


@contextmanager
def new_folder(path: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder, whose files become those of a run in `path` at the end of the `with` block.

    Where the block fails, as with a full disk, nothing has changed: a run that `force` was to replace is still there,
    and a folder that was not there is not.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something other than a run.
        ZooError: it cannot be written.
    """
    before = path.exists()
    make_folder(path)
    try:
        with hold_folder(path, "writing into", "wait for it, or pass another `--out`"):
            check_folder(path, force)
            try:
                yield from _staged(path, force)
            except BaseException:
                if not before and [file.name for file in path.iterdir()] == [LOCK_FILE]:
                    (path / LOCK_FILE).unlink()
                raise
    except BaseException as error:
        if not before:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def _staged(path: Path, force: bool) -> Iterator[Path]:
    """Yield a folder in a locked one, and move its files there, the record of the run at last."""
    stage = Path(tempfile.mkdtemp(prefix=MAKING, dir=path))
    try:
        yield stage
        if (path / RUN_FILE).is_file():
            clear_folder(path, force, keep=stage)
        for file in sorted(stage.iterdir(), key=lambda file: file.name == RUN_FILE):
            file.replace(path / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def clear_folder(path: Path, force: bool, *, keep: Path | None = None) -> None:
    """Delete the files of the run that `force` replaces, and nothing else in the folder; `keep` is what replaces it.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something other than a run.
        ZooError: it cannot be written.
    """
    check_folder(path, force)
    try:
        for pattern in OWN_FILES:
            for file in path.glob(pattern):
                file.unlink()
        for left in [file for file in path.iterdir() if _is_left(file) and file != keep]:
            shutil.rmtree(left)
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
