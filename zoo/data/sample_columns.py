"""Columns of samples: a sequence of `Sample` that keeps about 60 bytes an image, and makes each sample when it is asked
for. A million objects of ids, labels and paths would take a gigabyte.

A table holds the columns of a source; what divides, orders or selects images holds row numbers of it.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import index as as_index
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

from zoo.dataset import BytesSource, FileSource, ImageSource, Sample, as_source

Rows = npt.NDArray[np.int32]
Key = TypeVar("Key")


class Texts:
    """Strings in one buffer: their bytes and 8 more for each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoded(self, index: int) -> bytes:
        """A string in UTF-8, whose order is that of the strings."""
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])

    def __getitem__(self, index: int) -> str:
        return self.encoded(range(len(self))[index]).decode("utf-8", "surrogatepass")


class Sources(Protocol):
    """Where many images are, so that each needs two numbers at most."""

    def source(self, id: str, first: int, second: int) -> ImageSource:
        """The source of one image; the numbers are those of its `Place`."""
        ...


class Place(NamedTuple):
    """Where one image is: which of its `Sources`, and the two numbers that these need."""

    sources: Sources
    first: int = 0
    second: int = 0


class Ranges(NamedTuple):
    """Parts of a file: `offsets` and `sizes` in bytes, each `(N,)`."""

    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


class Below:
    """Images in a folder or an archive, where an image's id is its path below `root`."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def source(self, id: str, first: int, second: int) -> ImageSource:
        return as_source(self.root / id)


class ByteRanges:
    """Images that are parts of one file, such as members of a tar file: each is so many bytes at an offset.

    Attributes:
        file: Path of the file, a shard.
    """

    def __init__(self, file: str, prefix: str = "") -> None:
        """Take the file, and what stands before its own names in the ids of images."""
        self.file = file
        self._prefix = prefix

    def source(self, id: str, first: int, second: int) -> ImageSource:
        return range_source(self.file, id.removeprefix(self._prefix), first, second)


def range_source(file: str, name: str, offset: int, size: int) -> BytesSource:
    """The source of an image that is `size` bytes of a file, at an offset."""
    return BytesSource(f"{file}/{name}", partial(read_range, file, offset, size))


def read_range(file: str, offset: int, size: int) -> bytes:
    """So many bytes of a file, at an offset.

    Raises:
        OSError: the file ends before.
    """
    with Path(file).open("rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
    if len(data) != size:
        raise OSError(f"the shard ends within the member, after {len(data):,} of {size:,} bytes")
    return data


class _Prefixed:
    """Image files whose paths are a text and the id after it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def source(self, id: str, first: int, second: int) -> ImageSource:
        return as_source(self.prefix + id)


class _Paths:
    """Image files by their whole paths."""

    def __init__(self) -> None:
        self.paths = Texts()

    def source(self, id: str, first: int, second: int) -> ImageSource:
        return as_source(self.paths[first])


class _Objects:
    """Sources of any kind, as objects."""

    def __init__(self) -> None:
        self.objects: list[ImageSource] = []

    def source(self, id: str, first: int, second: int) -> ImageSource:
        return self.objects[first]


class SampleTable:
    """Samples as columns.

    Attributes:
        label_names: The labels, each once.
        label_codes: `(N,)`, the label of each image as an index of `label_names`.
        group_names: The groups.
        group_codes: `(N,)`, the group of each image; -1: it has none. None: no image has one.
        unique: Whether no id comes twice, which whoever fills the table finds out.
    """

    def __init__(self, *, unique: bool = False) -> None:
        self.ids = Texts()
        self.label_names: list[str] = []
        self.group_names: list[str] = []
        self.unique = unique
        self._labels, self._groups = array("i"), array("i")
        self._sources, self._first, self._second = array("i"), array("q"), array("q")
        self._known: list[Sources] = []
        self._codes: tuple[dict[str, int], dict[str, int], dict[int, int]] = ({}, {}, {})
        self._prefixes: dict[str, _Prefixed] = {}
        self._paths, self._objects = _Paths(), _Objects()
        self._samples: Sequence[Sample] | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleTable:
        """A table over samples that are objects already, which it keeps."""
        found = cls()
        found._samples = samples
        for sample in samples:
            found._labels.append(_code(found._codes[0], found.label_names, sample.label))
            found._groups.append(-1 if not sample.group else _code(found._codes[1], found.group_names, sample.group))
        return found

    def add(self, id: str, label: str, source: ImageSource | Place, group: str | None = None) -> None:
        """Add a sample. After `label_codes` has been read, none can be added; nor to a table of objects."""
        assert self._samples is None, "samples are added to a table that was made without any"
        self.ids.append(id)
        self._labels.append(_code(self._codes[0], self.label_names, label))
        self._groups.append(-1 if not group else _code(self._codes[1], self.group_names, group))
        place = source if isinstance(source, Place) else self._place(id, source)
        number = self._codes[2].get(hash_of := builtin_id(place.sources))
        if number is None or self._known[number] is not place.sources:  # of a copy, whose sources are others
            number = self._codes[2][hash_of] = len(self._known)
            self._known.append(place.sources)
        self._sources.append(number)
        if place.first or place.second or len(self._first):
            missing = len(self.ids) - 1 - len(self._first)
            for column in (self._first, self._second):
                column.extend(array("q", bytes(8 * missing)))
            self._first.append(place.first)
            self._second.append(place.second)

    def _place(self, id: str, source: ImageSource) -> Place:
        if type(source) is FileSource:
            path = str(source.path)
            if path.endswith(id):
                prefix = path[: len(path) - len(id)]
                return Place(self._prefixes.setdefault(prefix, _Prefixed(prefix)))
            self._paths.paths.append(path)
            return Place(self._paths, len(self._paths.paths) - 1)
        self._objects.objects.append(source)
        return Place(self._objects, len(self._objects.objects) - 1)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def label_codes(self) -> npt.NDArray[np.int32]:
        return np.frombuffer(self._labels, np.int32) if len(self._labels) else np.zeros(0, np.int32)

    @property
    def group_codes(self) -> npt.NDArray[np.int32] | None:
        return np.frombuffer(self._groups, np.int32) if self.group_names else None

    def id(self, row: int) -> str:
        return self.ids[row] if self._samples is None else self._samples[row].id

    def encoded_id(self, row: int) -> bytes:
        """The id in UTF-8."""
        if self._samples is None:
            return self.ids.encoded(row)
        return self._samples[row].id.encode("utf-8", "surrogatepass")

    def source(self, row: int) -> ImageSource:
        if self._samples is not None:
            return self._samples[row].source
        first, second = (self._first[row], self._second[row]) if row < len(self._first) else (0, 0)
        return self._known[self._sources[row]].source(self.ids[row], first, second)

    def ranges(self, rows: Rows) -> Iterator[tuple[ByteRanges, npt.NDArray[np.int64], Ranges]] | None:
        """The files that the images of some rows are parts of; None: some are not parts of a file.

        Of each file: its images as indices of `rows`, and their offsets and sizes, by their offsets.
        """
        if self._samples is not None or not self._known:
            return None
        codes = np.frombuffer(self._sources, np.int32)[rows]
        if not all(isinstance(self._known[code], ByteRanges) for code in np.unique(codes).tolist()):
            return None
        first, second = (np.zeros(len(self), np.int64) for _ in range(2))
        first[: len(self._first)], second[: len(self._second)] = self._first, self._second
        return self._ranges(rows, codes, first, second)

    def _ranges(
        self, rows: Rows, codes: npt.NDArray[np.int32], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
    ) -> Iterator[tuple[ByteRanges, npt.NDArray[np.int64], Ranges]]:
        order = np.lexsort((first[rows], codes))
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            holder = self._known[codes[part[0]]]
            assert isinstance(holder, ByteRanges)
            yield holder, part, Ranges(first[rows[part]], second[rows[part]])

    def sample(self, row: int) -> Sample:
        label, code = self.label_names[self._labels[row]], self._groups[row]
        group = self.group_names[code] if code >= 0 else None
        if self._samples is not None:
            kept = self._samples[row]
            if kept.label == label and (kept.group or None) == group:
                return kept
            return Sample(kept.id, label, kept.source, group)
        return Sample(self.ids[row], label, self.source(row), group)

    def relabelled(self, names: Mapping[str, str]) -> SampleTable:
        """The same samples with other labels: each `names` for the label it had."""
        found, codes = copy.copy(self), dict[str, int]()
        found.label_names = []
        new = np.array([_code(codes, found.label_names, names[label]) for label in self.label_names], np.int32)
        found._labels = array("i", new[self.label_codes].tobytes())
        return found

    def regrouped(self, groups: Iterable[str | None]) -> SampleTable:
        """The same samples with other groups, one for each row; None: it is in none."""
        found, codes = copy.copy(self), dict[str, int]()
        found.group_names = []
        found._groups = array("i", (_code(codes, found.group_names, one) if one else -1 for one in groups))
        return found


builtin_id = id  # `id` is a sample's name in this module


def _code(codes: dict[str, int], names: list[str], name: str) -> int:
    """The number of a name, which is added to the names if it is new."""
    found = codes.get(name)
    if found is None:
        found = codes[name] = len(names)
        names.append(name)
    return found


class SampleColumns(Sequence[Sample]):
    """Some samples of a table, in some order. It equals a tuple of the same samples.

    Attributes:
        table: The table.
        rows: `(N,)`, row numbers.
    """

    __slots__ = ("rows", "table")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, table: SampleTable, rows: npt.NDArray[Any] | None = None) -> None:
        self.table = table
        self.rows: Rows = np.arange(len(table), dtype=np.int32) if rows is None else rows.astype(np.int32, copy=False)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleColumns: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleColumns:
        if isinstance(index, slice):
            return SampleColumns(self.table, self.rows[index])
        return self.table.sample(int(self.rows[as_index(index)]))

    def __iter__(self) -> Iterator[Sample]:
        for row in _ints(self.rows):
            yield self.table.sample(row)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SampleColumns) and other.table is self.table:
            return np.array_equal(self.rows, other.rows)
        if not isinstance(other, (tuple, list, SampleColumns)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other))

    def __add__(self, other: Sequence[Sample]) -> SampleColumns:
        return joined([self, other])

    def __radd__(self, other: Sequence[Sample]) -> SampleColumns:
        return joined([other, self])

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"SampleColumns({shown}{', ...' if len(self) > 3 else ''}: {len(self)} samples)"

    def take(self, indices: npt.NDArray[Any] | Sequence[int]) -> SampleColumns:
        """The samples at some indices, or those that a mask names."""
        chosen = np.asarray(indices)
        return SampleColumns(self.table, self.rows[chosen if chosen.dtype == bool else chosen.astype(np.int64)])

    def ids(self) -> Iterator[str]:
        """The id of each."""
        yield from map(self.table.id, _ints(self.rows))

    def sorted_by(self, key: Callable[[bytes], bytes]) -> SampleColumns:
        """The samples in the order of a key of their ids, both in UTF-8."""
        encoded = self.table.encoded_id
        last, in_order = b"", True
        for row in _ints(self.rows):
            one = key(encoded(row))
            if one < last:
                in_order = False
                break
            last = one
        if in_order:
            return self
        keys = np.empty(len(self), object)
        for index, row in enumerate(_ints(self.rows)):
            keys[index] = key(encoded(row))
        return SampleColumns(self.table, self.rows[np.argsort(keys, kind="stable")])

    def label_codes(self) -> npt.NDArray[np.int32]:
        """`(N,)`, the label of each as an index of `table.label_names`."""
        return self.table.label_codes[self.rows]

    def label_indices(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """`(N,)`, the label of each as an index of `names`."""
        known = {name: index for index, name in enumerate(names)}
        used = self.label_counts()
        lookup = np.array([known[name] if name in used else -1 for name in self.table.label_names], np.int64)
        return lookup[self.label_codes()] if len(self) else np.zeros(0, np.int64)

    def label_counts(self) -> dict[str, int]:
        """The number of samples of each label that there is, by the order of the first of each."""
        codes, first, counts = np.unique(self.label_codes(), return_index=True, return_counts=True)
        order = np.argsort(first)
        return {self.table.label_names[codes[one]]: int(counts[one]) for one in order}

    def by_label(self) -> dict[str, npt.NDArray[np.int64]]:
        """The indices of the samples of each label, in order; labels are sorted."""
        codes = self.label_codes()
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        found = {self.table.label_names[codes[part[0]]]: part for part in np.split(order, starts[1:]) if len(part)}
        return dict(sorted(found.items()))

    def has_groups(self) -> bool:
        """Whether any sample is of a group with a name."""
        codes = self.table.group_codes
        if codes is None:
            return False
        named = np.array([bool(name.strip()) for name in self.table.group_names] + [False])
        return bool(named[codes[self.rows]].any())

    def distinct(self, parts: Iterable[Sequence[Sample]]) -> bool:
        """Whether it is known that no id comes twice in these parts: they are of one table, whose ids are unique."""
        rows = [part.rows for part in parts if isinstance(part, SampleColumns) and part.table is self.table]
        if not self.table.unique or len(rows) < len(list(parts)):
            return False
        counts = np.zeros(len(self.table), np.uint8)
        for one in rows:
            if len(one) > len(self.table) or counts[one].any():
                return False
            counts[one] = 1
        return int(counts.sum()) == sum(map(len, rows))


def _ints(rows: Rows) -> Iterator[int]:
    """The numbers of an array as Python's, a block at a time."""
    for start in range(0, len(rows), 4096):
        yield from rows[start : start + 4096].tolist()


def columns_of(samples: Iterable[Sample]) -> SampleColumns:
    """Samples as columns; those that are objects are kept."""
    if isinstance(samples, SampleColumns):
        return samples
    return SampleColumns(SampleTable.of(samples if isinstance(samples, (tuple, list)) else tuple(samples)))


def joined(parts: Iterable[Sequence[Sample]]) -> SampleColumns:
    """The samples of all parts, one after another."""
    every = [part for part in parts if len(part)]
    if len(every) == 1:
        return columns_of(every[0])
    first = next((part for part in every if isinstance(part, SampleColumns)), None)
    if first is not None and all(isinstance(one, SampleColumns) and one.table is first.table for one in every):
        return SampleColumns(first.table, np.concatenate([one.rows for one in every]))  # type: ignore[attr-defined]
    return columns_of([sample for part in every for sample in part])


def label_counts(samples: Iterable[Sample]) -> dict[str, int]:
    """The number of samples of each label that there is."""
    if isinstance(samples, SampleColumns):
        return samples.label_counts()
    found: dict[str, int] = {}
    for sample in samples:
        found[sample.label] = found.get(sample.label, 0) + 1
    return found


def ids_of(samples: Iterable[Sample]) -> Iterator[str]:
    """The id of each sample."""
    return samples.ids() if isinstance(samples, SampleColumns) else (sample.id for sample in samples)


def relabelled(splits: Mapping[Key, Sequence[Sample]], names: Mapping[str, str]) -> dict[Key, Sequence[Sample]]:
    """Splits with other labels: each `names` for the label it had, or that label where `names` has none."""
    if all(names.get(label, label) == label for samples in splits.values() for label in label_counts(samples)):
        return dict(splits)
    shared = with_shared_table(splits)
    before = next(iter(shared.values())).table
    table = before.relabelled({label: names.get(label, label) for label in before.label_names})
    return {role: SampleColumns(table, part.rows) for role, part in shared.items()}


def with_shared_table(splits: Mapping[Key, Sequence[Sample]]) -> dict[Key, SampleColumns]:
    """The splits as columns of one table."""
    whole = joined(splits.values())
    ends = np.cumsum([len(part) for part in splits.values()])
    return {role: SampleColumns(whole.table, rows) for role, rows in zip(splits, np.split(whole.rows, ends[:-1]))}
