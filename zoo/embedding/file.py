"""Files of features: `.parquet` in row groups, or `.npz`. Nothing in them is ever unpickled.

Both have one row an image, with these columns. A text that is not known is empty.

| column | what |
| --- | --- |
| `id` | of the image, unique in the source |
| `label`, `split`, `group` | text |
| `content` | SHA-256 of the image's bytes, in hexadecimal digits |
| `features` | float32, a list of equal length in each row |

`Origin` is in the metadata of a parquet file under `zoo`, and in an npz under `zoo` as JSON text.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zoo.embedding.extraction import CHUNK, Features, Origin
from zoo.errors import UsageError, ZooError, quoted
from zoo.preprocess import as_size, pixels_text
from zoo.storage.files import SCHEMA, check_schema, json_text, unwritable

TEXTS = ("id", "label", "split", "group", "content")
SUFFIXES = (".parquet", ".npz")
MOST_INFLATION = 20  # times that an npz may grow when it is read; features hardly shrink


@dataclass(frozen=True)
class Rows:
    """Some rows of a file: texts by column, each `(N,)`, and features `(N, width)` float32."""

    texts: dict[str, list[str]]
    features: Features

    def __len__(self) -> int:
        return len(self.features)


class Writer(Protocol):
    """Writes rows to a file that appears whole when it is finished, and not at all after an error."""

    def add(self, rows: Rows) -> None:
        """Write more rows."""

    def finish(self) -> None:
        """Close the file and move it to its place."""

    def drop(self) -> None:
        """Remove what was written, unless it is finished."""


def check_output(text: Path | str, *, force: bool) -> Path:
    """The path of a new file of features.

    Raises:
        UsageError: it has another suffix, exists already, or its folder does not.
        ZooError: pyarrow is not installed, for a parquet file.
    """
    file = Path(text)
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`{text}` is neither `.parquet` nor `.npz`", hint="name the file `features.parquet`")
    check_new(file, force=force)
    if file.suffix.lower() == ".parquet":
        _pyarrow(file)
    return file


def check_new(file: Path, *, force: bool) -> None:
    """Check that a file may be written.

    Raises:
        UsageError: it exists already, is a folder, or its folder does not exist.
    """
    if file.is_dir():
        raise UsageError(f"`{file}` is a folder", hint="name a file in it")
    if file.exists() and not force:
        raise UsageError(f"`{file}` exists already", hint="pass `--force` to overwrite it, or another `--out`")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder `{file.parent}` to write `{file.name}` in", hint="make it first")


def open_writer(file: Path, origin: Origin) -> Writer:
    """Begin to write a file of features.

    Raises:
        ZooError: the folder cannot be written, or the disk is full; also by the writer's methods.
    """
    return (_ParquetWriter if file.suffix.lower() == ".parquet" else _NpzWriter)(file, origin)


class _Temporary(ABC):
    """A file beside the one that is written, which it replaces in the end."""

    def __init__(self, file: Path, origin: Origin) -> None:
        self.file = file
        self.description = json_text({"schema": SCHEMA, "origin": asdict(origin)})
        self.width = origin.width
        try:
            handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)
        except OSError as error:
            raise unwritable(file, error) from error
        self.path = Path(name)
        self.stream = os.fdopen(handle, "w+b")

    def add(self, rows: Rows) -> None:
        try:
            self._add(rows)
        except OSError as error:
            raise unwritable(self.file, error) from error

    def finish(self) -> None:
        try:
            self._end()
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            before = os.umask(0)
            os.umask(before)
            self.path.chmod(0o666 & ~before)
            self.path.replace(self.file)
        except OSError as error:
            raise unwritable(self.file, error) from error

    def drop(self) -> None:
        with contextlib.suppress(OSError):  # what is still to be written does not fit on the disk
            self.stream.close()
        self.path.unlink(missing_ok=True)

    @abstractmethod
    def _add(self, rows: Rows) -> None:
        """Write more rows to the temporary file."""

    @abstractmethod
    def _end(self) -> None:
        """Write what is still to be written."""


class _ParquetWriter(_Temporary):
    """One row group for each call of `add`."""

    def __init__(self, file: Path, origin: Origin) -> None:
        super().__init__(file, origin)
        pyarrow = _pyarrow(file)
        import pyarrow.parquet as parquet

        vector = pyarrow.list_(pyarrow.float32(), origin.width)
        fields = [*((name, pyarrow.string()) for name in TEXTS), ("features", vector)]
        self._schema = pyarrow.schema(fields, metadata={"zoo": self.description})
        self._writer = parquet.ParquetWriter(self.stream, self._schema, write_page_checksum=True)

    def _add(self, rows: Rows) -> None:
        pyarrow = _pyarrow(self.file)
        texts = [pyarrow.array(rows.texts[name], pyarrow.string()) for name in TEXTS]
        values = pyarrow.array(np.ascontiguousarray(rows.features).reshape(-1))
        vectors = pyarrow.FixedSizeListArray.from_arrays(values, self.width)
        self._writer.write_table(pyarrow.Table.from_arrays([*texts, vectors], schema=self._schema))

    def _end(self) -> None:
        self._writer.close()

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._writer.is_open = False  # else pyarrow would close it again, when its stream is gone
        super().drop()


class _NpzWriter(_Temporary):
    """Features go to the disk at once, texts stay in memory: an npz says how many rows it has before the first."""

    def __init__(self, file: Path, origin: Origin) -> None:
        super().__init__(file, origin)
        self._texts: dict[str, list[str]] = {name: [] for name in TEXTS}
        self._rows = tempfile.TemporaryFile(dir=file.absolute().parent)  # noqa: SIM115 - it closes with the object

    def _add(self, rows: Rows) -> None:
        for name in TEXTS:
            self._texts[name] += rows.texts[name]
        self._rows.write(np.ascontiguousarray(rows.features, np.float32).data)

    def _end(self) -> None:
        count = len(self._texts["id"])
        with zipfile.ZipFile(self.stream, "w") as archive:
            for name, values in {**self._texts, "zoo": self.description}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(values, dtype=np.str_), allow_pickle=False)
            with archive.open("features.npy", "w", force_zip64=True) as member:
                head = {"descr": "<f4", "fortran_order": False, "shape": (count, self.width)}
                np.lib.format.write_array_header_1_0(member, head)
                self._rows.seek(0)
                shutil.copyfileobj(self._rows, member, 1 << 20)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._rows.close()
        super().drop()


@dataclass(frozen=True)
class FeatureFile:
    """A file of features.

    Attributes:
        path: Its path.
        origin: What its features come from.
    """

    path: Path
    origin: Origin

    @classmethod
    def open(cls, text: Path | str) -> FeatureFile:
        """Open a file; its rows are not read yet.

        Raises:
            UsageError: there is no such file, or it has another suffix.
            ZooError: it is damaged, or was not written by `zoo embed`.
        """
        path = Path(text)
        if path.is_dir() or path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"`{text}` is no file of features", hint="`zoo embed` writes one, `.parquet` or `.npz`")
        if not path.is_file():
            raise UsageError(f"there is no file `{text}`", hint="`zoo embed` writes one")
        described = _parquet_description(path) if path.suffix.lower() == ".parquet" else _npz_description(path)
        if described is None:
            raise ZooError(f"`{path}` holds no features of `zoo embed`", hint="write it again with `zoo embed`")
        try:
            found = json.loads(described)
            check_schema(found["schema"], path)
            origin = Origin(**found["origin"])
            texts = (origin.backbone, origin.weights, origin.digest, origin.run)
            width, size = origin.width, origin.image_size
            if not all(isinstance(one, str) for one in texts) or type(width) is not int or width < 1:
                raise ValueError("a value is of a wrong type")
            if isinstance(size, str):
                raise ValueError("its image size is a text")
            origin = replace(origin, image_size=as_size(size))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, f"its description cannot be read: {quoted(error)}") from error
        return cls(path, origin)

    def rows(self) -> Iterator[Rows]:
        """Yield all rows, in parts that fit into memory.

        Raises:
            ZooError: the file is damaged.
        """
        parts = _parquet_rows(self.path) if self.path.suffix.lower() == ".parquet" else _npz_rows(self.path)
        for part in parts:
            if part.features.ndim != 2 or part.features.shape[1] != self.origin.width:
                raise _damaged(self.path, f"its features are not {self.origin.width} numbers each")
            if any(len(values) != len(part) for values in part.texts.values()):
                raise _damaged(self.path, "its columns have different lengths")
            if not np.isfinite(part.features).all():
                raise _damaged(self.path, "a feature is not finite")
            yield part

    def check_origin(self, other: Origin) -> None:
        """Check that features of `other` can be compared with those of the file.

        Raises:
            UsageError: they come from another backbone, other weights or another preprocessing.
        """
        if self.origin.digest == other.digest:
            return
        mine, theirs = _named(self.origin), _named(other)
        if mine == theirs:
            mine, theirs = f"{mine} with the digest {self.origin.digest[:12]}", f"the digest {other.digest[:12]}"
        raise UsageError(
            f"`{self.path}` holds features of {mine}, not of {theirs}",
            hint="write it again with `zoo embed`, or leave `--backbone` and `--weights` out",
        )


def _named(origin: Origin) -> str:
    weights = f"of run `{origin.run}`" if origin.run else f"weights `{origin.weights}`"
    return f"`{origin.backbone}`, {weights}, {pixels_text(origin.image_size)} pixels"


def _damaged(path: Path, why: str) -> ZooError:
    return ZooError(f"`{path}` is damaged: {why}", hint="write it again with `zoo embed`")


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ZooError(
            f"`{file}` needs pyarrow", hint="`pip install backbone-zoo[parquet]`, or name an `.npz`"
        ) from error
    return pyarrow


def _open_parquet(path: Path) -> Any:
    pyarrow = _pyarrow(path)
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, f"it cannot be read as parquet: {quoted(error)}") from error


def _parquet_description(path: Path) -> str | None:
    with _open_parquet(path) as table:
        known = table.schema_arrow
        found: bytes | None = (known.metadata or {}).get(b"zoo")
        if found is None or any(name not in known.names for name in (*TEXTS, "features")):
            return None
    return found.decode("utf-8", "replace")


def _parquet_rows(path: Path) -> Iterator[Rows]:
    pyarrow = _pyarrow(path)
    with _open_parquet(path) as table:
        for group in range(table.num_row_groups):
            try:
                cells = table.read_row_group(group, columns=[*TEXTS, "features"])
                texts = {name: [text or "" for text in cells.column(name).to_pylist()] for name in TEXTS}
                vectors = cells.column("features").combine_chunks()
                values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
                features = values.reshape(len(cells), -1) if len(cells) else np.zeros((0, 1), np.float32)
            except (pyarrow.ArrowException, OSError, ValueError, AttributeError) as error:
                raise _damaged(path, f"row group {group} cannot be read: {quoted(error)}") from error
            if len(cells):
                yield Rows(texts, features)


# What zipfile and numpy raise for members that are damaged, encrypted, or declare more than memory holds
_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError, MemoryError),
)


def _npz_member(path: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of an npz, of which no object is ever unpickled.

    Raises:
        ZooError: it cannot be read, or is no array of text or numbers.
    """
    try:
        with archive.open(f"{name}.npy") as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    except _UNREADABLE as error:
        raise _damaged(path, f"`{name}` cannot be read: {quoted(error)}") from error


def _open_npz(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(path, f"it cannot be read as npz: {quoted(error)}") from error
    if sum(member.file_size for member in archive.infolist()) > MOST_INFLATION * max(path.stat().st_size, 1 << 20):
        archive.close()
        raise _damaged(path, f"its arrays are more than {MOST_INFLATION} times as large as the file")
    return archive


def _npz_description(path: Path) -> str | None:
    with _open_npz(path) as archive:
        if any(f"{name}.npy" not in archive.namelist() for name in ("zoo", *TEXTS, "features")):
            return None
        return str(_npz_member(path, archive, "zoo"))


def _npz_rows(path: Path) -> Iterator[Rows]:
    with _open_npz(path) as archive:
        texts = {name: _npz_member(path, archive, name) for name in TEXTS}
        features = _npz_member(path, archive, "features")
    if features.dtype != np.float32 or any(one.dtype.kind != "U" or one.ndim != 1 for one in texts.values()):
        raise _damaged(path, "its columns are not text and float32")
    if features.ndim != 2 or any(len(one) != len(features) for one in texts.values()):
        raise _damaged(path, "its columns have different lengths")
    for start in range(0, len(features), CHUNK):
        part = slice(start, start + CHUNK)
        yield Rows({name: one[part].tolist() for name, one in texts.items()}, features[part])


def rows_of(
    features: Features, ids: Sequence[str], labels: Sequence[str], splits: Sequence[str], groups: Sequence[str],
    contents: Sequence[str],
) -> Rows:  # fmt: skip
    """Rows from columns."""
    columns = (ids, labels, splits, groups, contents)
    return Rows({name: list(values) for name, values in zip(TEXTS, columns)}, features)
