"""Memos: small JSON values in the user's cache folder, so that they are computed only once.

A memo holds a value that takes seconds to compute and changes only with the installed versions, such as a
library's catalogue or a network's multiply-adds. No error is raised: where a folder cannot be written, or a file is
damaged or of another version, the value is computed again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import ZooError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

# What reading a damaged memo, or one of another version, may raise. In each case the value is computed again
_UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


def cache_folder() -> Path | None:
    """The user's cache folder: `ZOO_CACHE`, else `zoo` below the XDG cache folder. None: the user has no home.

    Raises:
        UsageError: `ZOO_CACHE` names a user that there is not.
    """
    from pathlib import Path

    folder = _folder()
    return None if folder is None else Path(folder)


def _folder() -> str | None:
    """As `cache_folder`, without pathlib, whose import takes as long as a memo saves."""
    chosen = os.environ.get("ZOO_CACHE")
    if chosen:
        if not chosen.startswith("~"):
            return chosen
        from zoo.storage.paths import user_path

        return str(user_path(chosen))
    shared = os.environ.get("XDG_CACHE_HOME")
    if shared:
        return f"{shared}/zoo"
    home = os.path.expanduser("~")  # noqa: PTH111
    return None if home == "~" else f"{home}/.cache/zoo"


def read_memo(name: str, key: str) -> Any | None:
    """The value last written under `name`, if it was written with the same `key` and can be read; else None."""
    folder = _folder()
    if folder is None:
        return None
    try:
        with open(f"{folder}/{name}.json", encoding="utf-8") as file:  # noqa: PTH123
            memo = json.load(file)
        return memo["value"] if memo["key"] == key else None
    except _UNUSABLE:
        return None


def write_memo(name: str, key: str, value: Any) -> None:
    """Write a JSON value to a temporary file and rename it. Nothing happens where the folder cannot be written."""
    import tempfile  # not at the top: these take milliseconds, and memos are mostly read
    from pathlib import Path

    from zoo.storage.files import json_text

    folder = cache_folder()
    if folder is None:
        return
    try:
        text = json_text({"key": key, "value": value}, separators=(",", ":"), ascii_only=True)
    except ZooError:  # a number that is not finite is computed again
        return
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=folder, prefix=f".{name}-", suffix=".partial", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.replace(folder / f"{name}.json")
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def memoise(
    name: str,
    key: str,
    compute: Callable[[], T],
    *,
    encode: Callable[[T], Any],
    decode: Callable[[Any], T],
) -> T:
    """The memo `name`, if it was written with the same key; else what `compute` returns, which becomes the memo.

    Args:
        name: Name of the memo's file, without its suffix.
        key: Everything that the value depends on: versions, and the code that computes it (see `source_key`).
        compute: Computes the value.
        encode: Converts the value to JSON values.
        decode: Converts it back.
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
    """A checksum of source files. In a key, it makes a memo unusable as soon as the code that wrote it changes."""
    checksum = 0
    for file in files:
        checksum = zlib.crc32(file.read_bytes(), checksum)
    return f"{checksum:08x}"
