"""Files of a run and of a study. They are written to a temporary file and renamed, so none is ever half written."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import DiskFull, ZooError, is_disk_full

# Version of the format of every file that zoo writes. A file with a higher one comes from a newer zoo and is refused
SCHEMA = 1


def check_schema(schema: object, file: Path) -> None:
    """Check that this version of zoo can read a file.

    Raises:
        ZooError: the file has a newer schema, or none.
    """
    if not isinstance(schema, int) or schema < 1:
        raise ZooError(
            f"`{file}` is damaged: its schema is `{schema}`", hint="restore it from a copy, or create it again"
        )
    if schema > SCHEMA:
        raise ZooError(
            f"`{file}` has schema {schema}, this zoo reads up to {SCHEMA}",
            hint="it was written by a newer zoo: `pip install --upgrade backbone-zoo`",
        )


def write_bytes(file: Path, data: bytes) -> None:
    """Write a temporary file in the same folder, flush it to the disk, and rename it to `file`.

    A device or a pipe, such as `/dev/stdout`, is written to and stays what it is.

    Raises:
        DiskFull: the disk is full.
        ZooError: the folder cannot be written.
    """
    temporary: str | None = None
    try:
        if file.exists() and (not file.is_file() or file.is_relative_to("/dev")):
            file.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(file)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise unwritable(file, error) from error


def unwritable(file: Path, error: OSError) -> ZooError:
    """The error to raise where the system refused to write a file: `DiskFull` or another `ZooError`."""
    kind = DiskFull if is_disk_full(error) else ZooError
    return kind(f"`{file}` cannot be written: {error.strerror}", hint="make room, or write to another folder")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def json_text(
    data: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    ascii_only: bool = False,
) -> str:
    r"""JSON (RFC 8259) that every reader takes; all JSON of zoo is made here. The arguments are those of `json.dumps`.

    Python would write `NaN` and `Infinity`, which are not JSON. A byte of a file name that is not UTF-8 is written as
    an escape such as `\udcff`, from which Python's `json` and `os.fsencode` give the name back.

    Raises:
        ZooError: a number is not finite; the message names its place.
    """
    try:
        text = json.dumps(
            data,
            indent=indent,
            sort_keys=sort_keys,
            separators=separators,
            ensure_ascii=ascii_only,
            allow_nan=False,
        )
    except ValueError as error:
        found = _not_finite(data, "")
        if found is None:
            raise
        raise ZooError(f"`{found[0]}` is {found[1]}, which is not a number that JSON can hold") from error
    return _SURROGATES.sub(lambda one: f"\\u{ord(one.group()):04x}", text)


_SURROGATES = re.compile("[\ud800-\udfff]")


def _not_finite(data: Any, place: str) -> tuple[str, float] | None:
    """Place and value of the first number that is not finite, such as `metrics.loss`."""
    if isinstance(data, float):
        return None if math.isfinite(data) else (place or "value", data)
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(data, Mapping):
        items = data.items()
    elif isinstance(data, (list, tuple)):
        items = enumerate(data)
    for name, value in items:
        if isinstance(name, float) and not math.isfinite(name):
            return f"{place}.{name}".lstrip("."), name
        if (found := _not_finite(value, f"{place}.{name}".lstrip("."))) is not None:
            return found
    return None


def write_json(file: Path, data: Any) -> None:
    """Write indented JSON by `write_bytes`.

    Raises:
        DiskFull: the disk is full.
        ZooError: a number is not finite, or the folder cannot be written.
    """
    write_bytes(file, (json_text(data, indent=2) + "\n").encode())


def append_json(file: Path, data: Any) -> None:
    """Append one line of JSON.

    Raises:
        DiskFull: the disk is full.
        ZooError: a number is not finite, or the file cannot be written.
    """
    line = json_text(data)
    try:
        # a process that was killed may have left half a line
        incomplete = file.is_file() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if incomplete else "") + line + "\n")
    except OSError as error:
        raise unwritable(file, error) from error


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ZooError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(f"there is no file `{file}`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(
            f"`{file}` cannot be read as JSON: {error}", hint="restore it from a copy, or create it again"
        ) from error


def read_lines(file: Path, count: int | None = None) -> list[dict[str, Any]]:
    """Objects of the first `count` lines of a JSON Lines file, or of all lines for None. Empty if there is no file.

    Lines that are incomplete or damaged are left out.
    """
    found = []
    for line in file.read_bytes().split(b"\n")[:count] if file.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found
