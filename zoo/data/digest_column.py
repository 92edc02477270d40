"""Digests of many contents: 32 bytes each, read as hexadecimal text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import index as as_index
from typing import Any, overload

import numpy as np
import numpy.typing as npt

SIZE = 32  # bytes of a SHA-256


class Digests(Sequence[str]):
    """SHA-256 digests; each is 64 hexadecimal digits, or empty where a content cannot be read. Equals a tuple of them.

    Attributes:
        array: `(N, 32)` uint8; zeros where there is none.
    """

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.array = array

    @classmethod
    def of(cls, digests: Iterable[bytes], count: int) -> Digests:
        """Collect `count` digests; an empty one is none."""
        array = np.zeros((count, SIZE), np.uint8)
        for index, digest in enumerate(digests):
            if digest:
                array[index] = np.frombuffer(digest, np.uint8)
        return cls(array)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Digests: ...

    def __getitem__(self, index: int | slice) -> str | Digests:
        if isinstance(index, slice):
            return Digests(self.array[index])
        return _text(self.array[as_index(index)].tobytes())

    def __iter__(self) -> Iterator[str]:
        for row in self.array:
            yield _text(row.tobytes())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Digests):
            return np.array_equal(self.array, other.array)
        if not isinstance(other, (tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other))

    def __repr__(self) -> str:
        return f"Digests({len(self)})"

    def take(self, indices: npt.NDArray[Any]) -> Digests:
        """The digests at some indices, or those that a mask names."""
        return Digests(self.array[indices])


def _text(digest: bytes) -> str:
    return digest.hex() if any(digest) else ""


def repeated(parts: Sequence[Digests]) -> list[list[tuple[int, int]]]:
    """Places (part, index) of each digest that comes more than once, by the first place of each.

    Memory grows by 24 bytes a digest.
    """
    starts = np.cumsum([0, *(len(part) for part in parts)])
    heads = np.concatenate([np.ascontiguousarray(part.array[:, :8]).view(np.uint64).ravel() for part in parts])
    order = np.argsort(heads, kind="stable")
    same = np.flatnonzero(heads[order][1:] == heads[order][:-1])
    if not len(same):
        return []
    found: dict[bytes, list[tuple[int, int]]] = {}
    for place in np.unique(np.concatenate([order[same], order[same + 1]])).tolist():
        number = int(np.searchsorted(starts, place, "right")) - 1
        index = place - int(starts[number])
        found.setdefault(parts[number].array[index].tobytes(), []).append((number, index))
    return [places for digest, places in found.items() if len(places) > 1 and any(digest)]
