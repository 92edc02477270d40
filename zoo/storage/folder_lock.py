"""A lock on a folder, so that only one process at a time works in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import ZooError

LOCK_FILE = ".lock"
LOOK_SECONDS = 0.2  # for which a lock is waited for: another process that only looks (`is_held`) has it for less


class FolderHeld(ZooError):
    """Another process holds the lock of a folder."""


@contextmanager
def hold_folder(folder: Path, doing: str, hint: str, who: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Hold the lock of a folder within a `with` block. The system releases the lock of a process that is killed.

    Args:
        folder: The folder; it must exist.
        doing: What messages say that another process does in the folder, such as `training into`.
        hint: What the user can do if another process holds the lock.
        who: Called then: what is known of that process, such as `process 7 on a machine`; empty: nothing.

    Raises:
        FolderHeld: another process holds the lock.
        ZooError: the folder cannot be written.
    """
    file = folder / LOCK_FILE
    lock = FileLock(file)
    try:
        lock.acquire(timeout=LOOK_SECONDS)
    except Timeout as error:
        known = who()
        raise FolderHeld(f"another process is {doing} `{folder}`{f': {known}' if known else ''}", hint=hint) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = f"the folder must be writable: `chmod u+w {folder}`, or copy it to a folder that is"
        if file.is_dir():
            remedy = f"move `{file}` away"
        raise ZooError(f"`{file}` cannot be written: {reason}", hint=remedy) from error
    try:
        yield
    finally:
        # the file stays: a process that has opened it already would lock it after it is gone, beside one that locks a
        # new file of the same name
        lock.release()


def is_held(folder: Path) -> bool | None:
    """Whether another process holds the lock of a folder; None: this cannot be found out, such as without rights."""
    file = folder / LOCK_FILE
    if not file.is_file():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None
    lock.release()
    return False
