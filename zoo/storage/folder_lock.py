"""Lock: a folder that one process at a time works in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import ZooError

LOCK_FILE = ".lock"


@contextmanager
def hold_folder(folder: Path, doing: str, hint: str) -> Iterator[None]:
    """Hold a folder, so that no second process works in it; a killed process lets go of it.

    `doing` is what another process is then said to do there, `hint` what may be done about it.

    Raises:
        ZooError: another process holds it, or it cannot be written.
    """
    file = folder / LOCK_FILE
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ZooError(f"another process is {doing} `{folder}`", hint=hint) from error
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        mend = f"the folder must be writable: `chmod u+w {folder}`, or copy it to where you may write"
        if file.is_dir():
            mend = f"move `{file}` away"
        raise ZooError(f"`{file}` cannot be written: {words}", hint=mend) from error
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
