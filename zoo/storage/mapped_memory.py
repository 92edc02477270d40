"""Mapped memory: pages of files that stay in memory until they are given back, and reading a large array in pieces."""

from __future__ import annotations

import contextlib
import mmap
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 16 * 2**20  # bytes that are read before their pages are given back
FAULT = 64 * 2**10  # bytes that Linux maps around one that is read


def drop_pages(array: npt.NDArray[Any]) -> None:
    """Give back the pages of a mapped file that an array has read or written; they are read again when needed.

    What was written is in the system's cache of files, which writes it to the disk. An array in memory is unchanged.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "_mmap", None) or getattr(base, "base", None)
    if base is not None and hasattr(base, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            base.madvise(mmap.MADV_DONTNEED)


def pieces(rows: npt.NDArray[np.uint8]) -> Iterator[memoryview]:
    """The bytes of contiguous rows, piece by piece; pages of a mapped file are given back after each."""
    flat = rows.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE].data
        drop_pages(rows)


def checksum_of_rows(rows: npt.NDArray[np.uint8]) -> int:
    """CRC-32 of contiguous rows."""
    found = 0
    for piece in pieces(rows):
        found = zlib.crc32(piece, found)
    return found


class PageBudget:
    """Bounds the pages of a mapped array that are in memory: they are given back after so many bytes were read."""

    def __init__(self, array: Any, budget: int) -> None:
        self._array, self._budget = array, budget
        self._row = max(int(np.prod(array.shape[1:])), FAULT)
        self._read = 0

    def touched(self, rows: int) -> None:
        """Count rows that were read or written."""
        self._read += rows * self._row
        if self._read > self._budget and isinstance(self._array, np.ndarray):
            drop_pages(self._array)
            self._read = 0
