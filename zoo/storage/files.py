"""Files that a run leaves: written beside and renamed, so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from zoo.errors import DiskFull, ZooError, is_disk_full

# Of every file that zoo writes; a file with a higher one comes from a newer zoo and is refused
SCHEMA = 1


def check_schema(schema: object, file: Path) -> None:
    """Refuse a file of a newer schema.

    Raises:
        ZooError: naming the file and both schemas.
    """
    if not isinstance(schema, int) or schema < 1:
        raise ZooError(f"`{file}` is damaged: its schema is `{schema}`", hint="restore it from a copy, or make it anew")
    if schema > SCHEMA:
        raise ZooError(
            f"`{file}` has schema {schema}, this zoo reads up to {SCHEMA}",
            hint="it was written by a newer zoo: `pip install --upgrade backbone-zoo`",
        )


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file beside its place, flush it to the disk and rename it.

    Raises:
        ZooError: the folder cannot be written, or the disk is full.
    """
    temporary: str | None = None
    try:
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
    """The error for a file that the system refused to write."""
    kind = DiskFull if is_disk_full(error) else ZooError
    return kind(f"`{file}` cannot be written: {error.strerror}", hint="make room, or write to another folder")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(file: Path, data: Any) -> None:
    """Write JSON, indented, atomically."""
    write_bytes(file, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def append_json(file: Path, data: Any) -> None:
    """Append one line of JSON."""
    try:
        cut = file.is_file() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")  # by a kill
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if cut else "") + json.dumps(data, ensure_ascii=False) + "\n")
    except OSError as error:
        raise unwritable(file, error) from error


def read_json(file: Path) -> Any:
    """Read JSON.

    Raises:
        ZooError: the file is missing, unreadable, or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(f"there is no file `{file}`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(
            f"`{file}` cannot be read as JSON: {error}", hint="restore it from a copy, or make it anew"
        ) from error


def read_lines(file: Path, count: int | None = None) -> list[dict[str, Any]]:
    """Objects of the first `count` lines of a file of JSON lines, of all for None; none where there is no file.

    What a kill cut short or a disk damaged is left out.
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
