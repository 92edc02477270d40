"""The tensor store: tensors on disk under the user's cache folder, found by a key of what they were computed from.

An entry is a file, named by the SHA-256 of its key. It is written to a temporary file and renamed, so several processes
may share a store. It is memory-mapped, so the system can drop its pages. Its checksum is verified when it is opened; an
entry that is damaged, or has another key, counts as missing. The store only saves time: what it cannot keep is computed
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.storage.cache import cache_folder
from zoo.storage.files import SCHEMA, json_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

FOLDER = "store"
SUFFIX = ".safetensors"

DAY = 24 * 3600.0  # seconds

# An entry that is filled row by row is a file of its rows, their description as JSON, and a footer with the length and
# the checksum of the description. The description comes last since the number of rows is known only at the end
ROWS_SUFFIX = ".rows"
FOOTER = struct.Struct("<QI")

# Largest size of a store in bytes where `ZOO_CACHE_BUDGET` is not set
DEFAULT_BUDGET = 20 * 2**30
# Largest share that a store may take of its own size and the free space of the disk
MAX_SHARE = 0.5

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Usage:
    """The size of a store.

    Attributes:
        folder: Its folder. None: the user has no home, and there is no store.
        entries: Number of entries.
        bytes: Their size.
        budget: Largest size in bytes that is allowed.
    """

    folder: Path | None
    entries: int
    bytes: int
    budget: int


class Store:
    """Tensors by key. Where the budget is reached, the entries that were used longest ago are removed.

    Attributes:
        folder: Where entries are. None: the user has no home, and nothing is stored.
        requested_budget: Largest size in bytes that the user allows.
        failure: Why nothing more is written, once a write has failed; else None.
    """

    def __init__(self, folder: Path | None = None, budget: int | None = None) -> None:
        """Open a store; no file is read or written yet.

        Args:
            folder: Its folder. None: the user's own store, in the cache folder.
            budget: Its largest size in bytes. None: `ZOO_CACHE_BUDGET`, or the default.

        Raises:
            UsageError: `ZOO_CACHE_BUDGET` is not a size.
        """
        parent = cache_folder()
        self.folder = folder if folder is not None else parent / FOLDER if parent is not None else None
        self.requested_budget = budget if budget is not None else budget_from_environment()
        self.failure: str | None = None
        self._written: set[Path] = set()  # entries of this process, which it does not remove to make room

    @property
    def budget(self) -> int:
        """Largest size in bytes: the requested one, or `MAX_SHARE` of what the disk has for it. 0 after a failure."""
        if self.folder is None or self.failure is not None:
            return 0
        try:
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            room = shutil.disk_usage(existing).free + self.usage().bytes
        except OSError as error:
            self.failure = f"`{self.folder}` cannot be used: {(error.strerror or str(error)).lower()}"
            return 0
        return min(self.requested_budget, int(MAX_SHARE * room))

    def check_folder(self) -> None:
        """Check that the folder, or the one that it would be made in, is a folder that may be read.

        Raises:
            UsageError: it is a file, or may not be read.
        """
        if self.folder is None:
            return
        where = self.folder.parent
        hint = "set `ZOO_CACHE` to a folder of your own, or unset it"
        try:
            found = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            if not found.is_dir():
                raise UsageError(f"the cache folder `{where}` cannot be used: `{found}` is a file", hint=hint)
            if not os.access(found, os.R_OK | os.X_OK):
                raise UsageError(f"the cache folder `{where}` may not be read", hint=hint)
        except OSError as error:
            raise UsageError(f"the cache folder `{where}` cannot be used: {error.strerror}", hint=hint) from error

    def usage(self) -> Usage:
        """The number and size of the entries."""
        sizes = [size for _, size, _ in self._entries()]
        return Usage(self.folder, len(sizes), sum(sizes), self.requested_budget)

    def read(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of an entry, memory-mapped; None if there is no entry with this key, or it is damaged."""
        from safetensors import SafetensorError, safe_open

        text, file = _key_text(key), self._file(key)
        if file is None:
            return None
        try:
            with safe_open(file, "pt") as stored:
                metadata = stored.metadata() or {}
                if metadata.get("key") != text:
                    return None
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            if metadata.get("checksum") != checksum(tensors):
                return None
        except (OSError, SafetensorError, ValueError, RuntimeError):
            return None
        _touch(file)
        return tensors

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is an entry with this key, which may be damaged."""
        file = self._file(key)
        return file is not None and file.is_file()

    def write(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Store contiguous tensors and return them, memory-mapped.

        Returns None if they cannot be stored; `failure` then says why. It also returns None without a failure, where
        another process has removed the entry already.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        file = self._file(key)
        if file is None or self.failure is not None:
            return None
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if not self._make_room(size):
            self.failure = f"the budget of {size_text(self.budget)} is used up"
            return None
        metadata = {"schema": str(SCHEMA), "key": _key_text(key), "checksum": checksum(tensors)}
        temporary: Path | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=file.parent)
            os.close(handle)
            temporary = Path(name)
            save_file(dict(tensors), temporary, metadata)
            temporary.replace(file)
        except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in an error of its own
            self.failure = f"`{self.folder}` cannot be written: {getattr(error, 'strerror', None) or error}"
            return None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)  # it still exists if writing failed or was interrupted
        self.note_written(file)
        return self.read(key)

    def note_written(self, file: Path) -> None:
        """Note that this process wrote an entry. The process does not remove it to make room for another entry."""
        self._written.add(file)

    def draft(self, key: Mapping[str, Any], shape: tuple[int, ...]) -> Draft | None:
        """A memory-mapped uint8 array of this shape, to be filled row by row and kept as an entry.

        Returns None where it cannot be stored, or has no bytes.
        """
        file = self._file(key, ROWS_SUFFIX)
        size = math.prod(shape)
        if file is None or self.failure is not None or not size or not self._make_room(size):
            return None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return Draft(self, file, _key_text(key), shape)
        except OSError as error:
            self.failure = f"`{self.folder}` cannot be written: {error.strerror}"
            return None

    def read_rows(self, key: Mapping[str, Any]) -> tuple[npt.NDArray[np.uint8], Any] | None:
        """The rows of an entry that was a `Draft`, memory-mapped, and their note; None in the same cases as `read`."""
        import numpy as np

        from zoo.storage.mapped_memory import checksum_of_rows

        file = self._file(key, ROWS_SUFFIX)
        if file is None:
            return None
        try:
            with file.open("rb") as stream:
                size = stream.seek(-FOOTER.size, os.SEEK_END)
                length, check = FOOTER.unpack(stream.read(FOOTER.size))
                stream.seek(size - length)
                text = stream.read(length)
                description = json.loads(text)
                if zlib.crc32(text) != check or description["key"] != _key_text(key):
                    return None
                rows = np.memmap(stream, np.uint8, "c", shape=tuple(description["shape"]))
            if checksum_of_rows(rows) != description["checksum"]:
                return None
        except (OSError, ValueError):  # errors of json and numpy are ValueErrors
            return None
        _touch(file)
        return rows, description["note"]

    def clear(self) -> Usage:
        """Remove every entry, and return the size of the store before."""
        before = self.usage()
        for file, _, _ in self._entries():
            file.unlink(missing_ok=True)
        for left in self._files("*/.*.partial"):
            left.unlink(missing_ok=True)
        return before

    def _make_room(self, size: int) -> bool:
        """Remove the entries that were used longest ago until `size` bytes fit; whether they fit."""
        self._remove_partial_files()
        budget = self.budget
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        used = sum(entry[1] for entry in entries)
        for file, bytes, _ in entries:
            if used + size <= budget:
                break
            if file not in self._written:
                file.unlink(missing_ok=True)
                used -= bytes
        return used + size <= budget

    def _remove_partial_files(self) -> None:
        """Remove temporary files of processes that were killed. A younger file may belong to one that is writing."""
        for left in self._files("*/.*.partial"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > DAY:
                    left.unlink()

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """The file of each entry, its size in bytes, and the time of its last use."""
        for file in (*self._files(f"*/*{SUFFIX}"), *self._files(f"*/*{ROWS_SUFFIX}")):
            with contextlib.suppress(OSError):  # another process removed it
                found = file.stat()
                yield file, found.st_size, found.st_mtime

    def _files(self, pattern: str) -> list[Path]:
        """Files of the store that match a pattern; none where there is no store, or its folder cannot be read."""
        try:
            return list(self.folder.glob(pattern)) if self.folder is not None else []
        except OSError:
            return []

    def _file(self, key: Mapping[str, Any], suffix: str = SUFFIX) -> Path | None:
        name = hashlib.sha256(_key_text(key).encode()).hexdigest()
        return None if self.folder is None else self.folder / name[:2] / f"{name}{suffix}"


class Draft:
    """An entry that is being filled.

    Attributes:
        array: The rows, uint8, memory-mapped to a temporary file.
    """

    def __init__(self, store: Store, file: Path, key: str, shape: tuple[int, ...]) -> None:
        """Create the temporary file of an entry that `file` will hold.

        Raises:
            OSError: it cannot be created, or the disk is full.
        """
        import numpy as np

        self._store, self._file, self._key = store, file, key
        handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=file.parent)
        self._temporary = Path(name)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(
                    handle, 0, math.prod(shape)
                )  # else a full disk would kill the process later (SIGBUS)
            with os.fdopen(handle, "r+b") as stream:
                self.array = np.memmap(stream, np.uint8, "r+", shape=shape)
        except OSError:
            self._temporary.unlink(missing_ok=True)
            raise

    def keep(self, rows: int, note: Any) -> npt.NDArray[np.uint8]:
        """Store the first `rows` rows as the entry, with a note of JSON values.

        Returns these rows, memory-mapped, also if they cannot be stored; `Store.failure` then says why.
        """
        import numpy as np

        from zoo.storage.mapped_memory import checksum_of_rows

        kept: npt.NDArray[np.uint8] = self.array[:rows]
        description = {
            "key": self._key,
            "checksum": checksum_of_rows(kept),
            "shape": kept.shape,
            "note": note,
        }
        text = json_text(description, ascii_only=True).encode()
        try:
            self.array.flush()
            with self._temporary.open("r+b") as stream:
                stream.truncate(kept.size)
                stream.seek(0, os.SEEK_END)
                stream.write(text + FOOTER.pack(len(text), zlib.crc32(text)))
            if rows:
                kept = np.memmap(self._temporary, np.uint8, "c", shape=kept.shape)
            self._temporary.replace(self._file)
            self._store.note_written(self._file)
        except OSError as error:
            self._store.failure = f"`{self._store.folder}` cannot be written: {error.strerror}"
            self.drop()
        return kept

    def drop(self) -> None:
        """Remove the temporary file; nothing is stored, and the array stays usable."""
        self._temporary.unlink(missing_ok=True)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, dtypes, shapes and values. It detects damage, not manipulation."""
    import torch

    found = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _touch(file: Path) -> None:
    """Set the time of an entry's last use to now. In a store that is read-only nothing changes."""
    with contextlib.suppress(OSError):
        os.utime(file)


def digest_of_texts(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order, with which one value of a key stands for many texts."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(f"{text}\0".encode())
    return whole.hexdigest()


def _key_text(key: Mapping[str, Any]) -> str:
    return json_text(key, sort_keys=True, separators=(",", ":"), ascii_only=True)


def budget_from_environment() -> int:
    """The bytes that `ZOO_CACHE_BUDGET` allows, such as `0`, `500M` or `20G`; `DEFAULT_BUDGET` if it is not set.

    Raises:
        UsageError: it is not a size.
    """
    text = os.environ.get("ZOO_CACHE_BUDGET", "").strip()
    if not text:
        return DEFAULT_BUDGET
    number, unit = (text[:-1], text[-1].upper()) if text[-1].upper() in _UNITS else (text, "")
    try:
        size = float(number) * _UNITS[unit]
        assert 0 <= size < 2**63
    except (ValueError, AssertionError) as error:
        raise UsageError(f"`ZOO_CACHE_BUDGET={text}` is not a size", hint="write it like 0, 500M or 20G") from error
    return int(size)


def size_text(size: float) -> str:
    """A number of bytes as text, such as `41 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
