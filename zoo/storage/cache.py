"""Memo: a JSON value kept in the user's cache folder, computed again whenever it cannot be used.

What takes seconds to find out and never changes for one installed version (a library's catalogue, a network's
multiply-adds) is written down once. Nothing here may fail: a folder that cannot be written, a damaged file or one
of another version costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# What a memo of another shape makes a reader stumble over; all of it means "compute anew"
_UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def cache_folder() -> Path | None:
    """`ZOO_CACHE`, else `zoo` below the XDG cache folder; None where the user has no home."""
    chosen = os.environ.get("ZOO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "zoo"
    except RuntimeError:
        return None


def read_memo(name: str, key: str) -> Any | None:
    """The value last written under `name` with this very `key`; None if there is none to be had."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        memo = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return memo["value"] if memo["key"] == key else None
    except _UNUSABLE:
        return None


def write_memo(name: str, key: str, value: Any) -> None:
    """Keep a JSON value, written beside and renamed; does nothing where the folder cannot be written."""
    folder = cache_folder()
    if folder is None:
        return
    beside: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=folder, prefix=f".{name}-", suffix=".partial", delete=False
        ) as file:
            beside = Path(file.name)
            json.dump({"key": key, "value": value}, file, separators=(",", ":"))
        beside.replace(folder / f"{name}.json")
    except OSError:
        if beside is not None:
            beside.unlink(missing_ok=True)


def recall(
    name: str,
    key: str,
    compute: Callable[[], T],
    *,
    encode: Callable[[T], Any],
    decode: Callable[[Any], T],
) -> T:
    """What `compute` gave the last time under this key, or gives now.

    `key` names everything that the value depends on: versions, and the code that computes it (see `source_key`).
    """
    kept = read_memo(name, key)
    if kept is not None:
        try:
            return decode(kept)
        except _UNUSABLE:
            pass  # written by another version of this code, or damaged in a way that is still JSON
    value = compute()
    write_memo(name, key, encode(value))
    return value


def source_key(*files: Path) -> str:
    """A checksum of source files, so that a memo ends with the code that wrote it."""
    checksum = 0
    for file in files:
        checksum = zlib.crc32(file.read_bytes(), checksum)
    return f"{checksum:08x}"
