"""Claims: of the processes of one machine, one computes an entry of a store, and the others wait for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from zoo.storage.files import json_text
from zoo.storage.tensor_store import Store

FOLDER = "claims"
# Files that are locked. Entries share them by their digest, so that the folder stays small: two entries of one file
# are computed one after the other, which is slower and no less right
FILES = 256


@contextmanager
def claim(
    store: Store | None, key: Mapping[str, Any], waiting: Callable[[], None] = lambda: None, files: int = FILES
) -> Iterator[None]:
    """Hold the claim on an entry within a `with` block; look again whether the entry is there once it is held.

    `waiting` is called before this process waits for another one. Where many processes compute at a time, more `files`
    than usual keep them from waiting for one another.

    The system gives up the claim of a process that is killed. Where no lock can be had, as in a folder that cannot be
    written or on some network file systems, nobody waits, and the entry may be computed twice.
    """
    folder = None if store is None or store.failure is not None else store.folder
    if folder is None:
        yield
        return
    digest = hashlib.sha256(json_text(dict(key), ascii_only=True).encode()).digest()
    lock = FileLock(folder / FOLDER / f"{int.from_bytes(digest[:4], 'little') % files:02x}.lock")
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
