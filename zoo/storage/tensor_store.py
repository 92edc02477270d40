"""The store: tensors under the user's cache folder, addressed by what they were computed from.

An entry is a file named by the SHA-256 of its key. It is written beside its place and renamed, so that several
processes may share a store; it is mapped, not read, so that its pages can be dropped; its checksum is looked at when it
is opened, and one that is damaged or foreign counts as missing. Nothing here is ever needed: what cannot be kept is
computed again.
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
from zoo.storage.files import SCHEMA

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

FOLDER = "store"
SUFFIX = ".safetensors"

DAY = 24 * 3600.0  # seconds

# Of an entry that is filled row by row: its rows, what is told of them as JSON, the length and the checksum of that
ROWS_SUFFIX = ".rows"
ENDING = struct.Struct("<QI")

# Bytes of a store where `ZOO_CACHE_BUDGET` does not say; and never more than this share of what is free on the disk
BUDGET = 20 * 2**30
SHARE = 0.5

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Usage:
    """What a store holds."""

    folder: Path | None  # None: the user has no home, and there is no store
    entries: int
    bytes: int
    budget: int  # bytes


class Store:
    """Tensors by key. `budget` is in bytes; the entries that were used longest ago make room for new ones."""

    def __init__(self, folder: Path | None = None, budget: int | None = None) -> None:
        """The user's own store, or one in `folder`.

        Raises:
            UsageError: `ZOO_CACHE_BUDGET` is no size.
        """
        parent = cache_folder()
        self.folder = folder if folder is not None else parent / FOLDER if parent is not None else None
        self.asked = budget if budget is not None else budget_asked()
        self.failure: str | None = None  # why nothing more is written, once a write has failed
        self._written: set[Path] = set()  # by this process; not to be evicted for its own sake

    @property
    def budget(self) -> int:
        """Bytes that the store may take: what is asked, and never more than a share of the room that there is."""
        if self.folder is None or self.failure is not None:
            return 0
        try:
            there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            room = shutil.disk_usage(there).free + self.usage().bytes
        except OSError as error:
            self.failure = f"`{self.folder}` cannot be used: {(error.strerror or str(error)).lower()}"
            return 0
        return min(self.asked, int(SHARE * room))

    def usage(self) -> Usage:
        sizes = [size for _, size, _ in self._entries()]
        return Usage(self.folder, len(sizes), sum(sizes), self.asked)

    def read(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of an entry, mapped; None where there is none, or none that can be trusted."""
        from safetensors import SafetensorError, safe_open

        text, file = _text(key), self._file(key)
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

    def write(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Keep contiguous tensors; the same, mapped. None where they cannot be kept: `failure` says why."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        file = self._file(key)
        if file is None or self.failure is not None:
            return None
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if not self._make_room(size):
            self.failure = f"the budget of {size_text(self.budget)} is used up"
            return None
        metadata = {"schema": str(SCHEMA), "key": _text(key), "checksum": checksum(tensors)}
        beside: Path | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=file.parent)
            os.close(handle)
            beside = Path(name)
            save_file(dict(tensors), beside, metadata)
            beside.replace(file)
        except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in an error of its own
            self.failure = f"`{self.folder}` cannot be written: {getattr(error, 'strerror', None) or error}"
            return None
        finally:
            if beside is not None:
                beside.unlink(missing_ok=True)  # renamed by now, unless it failed or was interrupted
        self.wrote(file)
        return self.read(key)

    def wrote(self, file: Path) -> None:
        """Remember an entry as this process's own, which does not make room for another one of its own."""
        self._written.add(file)

    def draft(self, key: Mapping[str, Any], shape: tuple[int, ...]) -> Draft | None:
        """An array of bytes to be filled row by row, mapped, that becomes an entry; None where it cannot be kept."""
        file = self._file(key, ROWS_SUFFIX)
        size = math.prod(shape)
        if file is None or self.failure is not None or not size or not self._make_room(size):
            return None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return Draft(self, file, _text(key), shape)
        except OSError as error:
            self.failure = f"`{self.folder}` cannot be written: {error.strerror}"
            return None

    def read_rows(self, key: Mapping[str, Any]) -> tuple[npt.NDArray[np.uint8], Any] | None:
        """The rows of an entry that was a draft, mapped, and what was told of them; None as `read`."""
        import numpy as np

        file = self._file(key, ROWS_SUFFIX)
        if file is None:
            return None
        try:
            with file.open("rb") as stream:
                size = stream.seek(-ENDING.size, os.SEEK_END)
                length, check = ENDING.unpack(stream.read(ENDING.size))
                stream.seek(size - length)
                text = stream.read(length)
                told = json.loads(text)
                if zlib.crc32(text) != check or told["key"] != _text(key):
                    return None
                rows = np.memmap(stream, np.uint8, "c", shape=tuple(told["shape"]))
            if zlib.crc32(rows.reshape(-1).data) != told["checksum"]:
                return None
        except (OSError, ValueError):  # among them what JSON and numpy raise
            return None
        _touch(file)
        return rows, told["note"]

    def clear(self) -> Usage:
        """Remove every entry; what there was."""
        before = self.usage()
        for file, _, _ in self._entries():
            file.unlink(missing_ok=True)
        for left in self._files("*/.*.partial"):
            left.unlink(missing_ok=True)
        return before

    def _make_room(self, size: int) -> bool:
        self._sweep()
        budget = self.budget
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        held = sum(entry[1] for entry in entries)
        for file, bytes, _ in entries:
            if held + size <= budget:
                break
            if file not in self._written:
                file.unlink(missing_ok=True)
                held -= bytes
        return held + size <= budget

    def _sweep(self) -> None:
        """Remove what a killed process left half written, a day later."""
        for left in self._files("*/.*.partial"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > DAY:
                    left.unlink()

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """Files with their bytes and when they were last used."""
        for file in (*self._files(f"*/*{SUFFIX}"), *self._files(f"*/*{ROWS_SUFFIX}")):
            with contextlib.suppress(OSError):  # another process removed it
                found = file.stat()
                yield file, found.st_size, found.st_mtime

    def _files(self, pattern: str) -> list[Path]:
        """Files of the store; none where there is no store, or none that may be looked into."""
        try:
            return list(self.folder.glob(pattern)) if self.folder is not None else []
        except OSError:
            return []

    def _file(self, key: Mapping[str, Any], suffix: str = SUFFIX) -> Path | None:
        name = hashlib.sha256(_text(key).encode()).hexdigest()
        return None if self.folder is None else self.folder / name[:2] / f"{name}{suffix}"


class Draft:
    """An entry that is being filled: `array` is mapped to a file beside its place."""

    def __init__(self, store: Store, file: Path, key: str, shape: tuple[int, ...]) -> None:
        import numpy as np

        self._store, self._place, self._key = store, file, key
        handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=file.parent)
        self._beside = Path(name)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, math.prod(shape))  # a full disk is told now, not by a signal later
            with os.fdopen(handle, "r+b") as stream:
                self.array = np.memmap(stream, np.uint8, "r+", shape=shape)
        except OSError:
            self._beside.unlink(missing_ok=True)
            raise

    def keep(self, rows: int, note: Any) -> npt.NDArray[np.uint8]:
        """The first `rows` become the entry, with a JSON `note`; they are returned, mapped, kept or not."""
        import numpy as np

        kept: npt.NDArray[np.uint8] = self.array[:rows]
        told = {"key": self._key, "checksum": zlib.crc32(kept.reshape(-1).data), "shape": kept.shape, "note": note}
        text = json.dumps(told).encode()
        try:
            self.array.flush()
            with self._beside.open("r+b") as stream:
                stream.truncate(kept.size)
                stream.seek(0, os.SEEK_END)
                stream.write(text + ENDING.pack(len(text), zlib.crc32(text)))
            if rows:
                kept = np.memmap(self._beside, np.uint8, "c", shape=kept.shape)
            self._beside.replace(self._place)
            self._store.wrote(self._place)
        except OSError as error:
            self._store.failure = f"`{self._store.folder}` cannot be written: {error.strerror}"
            self.drop()
        return kept

    def drop(self) -> None:
        """Nothing is kept; the array stays usable."""
        self._beside.unlink(missing_ok=True)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, kinds, shapes and values: against damage, not against malice."""
    import torch

    found = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _touch(file: Path) -> None:
    """An entry was used just now; where the store may be read only, its entries keep their age."""
    with contextlib.suppress(OSError):
        os.utime(file)


def digest_of_texts(texts: Iterable[str]) -> str:
    """SHA-256 over texts, in order: many in the place of one in a key."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(f"{text}\0".encode())
    return whole.hexdigest()


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def budget_asked() -> int:
    """Bytes that `ZOO_CACHE_BUDGET` allows: `0`, `500M`, `20G`.

    Raises:
        UsageError: it is no size.
    """
    text = os.environ.get("ZOO_CACHE_BUDGET", "").strip()
    if not text:
        return BUDGET
    number, unit = (text[:-1], text[-1].upper()) if text[-1].upper() in _UNITS else (text, "")
    try:
        size = float(number) * _UNITS[unit]
        assert 0 <= size < 2**63
    except (ValueError, AssertionError) as error:
        raise UsageError(f"`ZOO_CACHE_BUDGET={text}` is no size", hint="such as 0, 500M or 20G") from error
    return int(size)


def size_text(size: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
