"""`parquet:part-*.parquet,image=image,label=label`: tables that hold encoded images, or paths of image files.

Reading needs pyarrow (extra `parquet`). Memory holds positions of rows; a row group is read when one of its images is.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind, is_url
from zoo.data.labelled_rows import LabelledRows
from zoo.data.sample_columns import Place
from zoo.data.table import LABEL_NAMES, LOOKED_AT, SPLIT_NAMES, cell_text
from zoo.dataset import BytesSource, ImageSource
from zoo.errors import did_you_mean, quoted
from zoo_datasets.image_files import ImageFiles, image_files
from zoo_datasets.reading import BY_SPLIT, files_by_split

OPTIONS: dict[str, Kind] = {
    **BY_SPLIT,
    "image": "text",
    "label": "text",
    "split": "text",
    "group": "text",
    "id": "text",
    "root": "path",
    "suffix": "text",
}
EXAMPLE = "such as `parquet:part-*.parquet,image=image,label=label`"
KEPT = 16 << 20  # bytes of row groups that are kept, so that neighbours are not read again


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the rows of every file.

    Raises:
        UsageError: a file or a column does not exist.
        ZooError: pyarrow is not installed, a file is damaged, or a column cannot be told.
    """
    files = files_by_split(argument, "table", rows)
    groups = RowGroups()
    tables = [_Table(file, argument, rows, groups) for file, _ in files]
    own_names = "id" in argument.options or _are_distinct(tables)
    if not own_names:
        rows.notes.append("images have no names of their own, so an image is called by its file and row")
    for (file, role), table in zip(files, tables):
        for row in table.rows(rows):
            rows.add(
                row.name if own_names else f"{Path(file).stem}/{row.number:08d}",
                row.label,
                row.source,
                split=role or row.split,
                group=row.group,
                table=file,
                line=row.number + 1,
            )


def _are_distinct(tables: Sequence[_Table]) -> bool:
    """Whether there is a name for each image, and no two are equal. Of a million names, 8 MB of hashes are kept."""
    hashes = array("q")
    for name in (name for table in tables for name in table.names()):
        if not name:
            return False
        hashes.append(hash(name))
    found, counts = np.unique(np.array(hashes, np.int64), return_counts=True)
    likely = set(found[counts > 1].tolist())
    if not likely:
        return True
    alike = [name for table in tables for name in table.names() if hash(name) in likely]
    return len(set(alike)) == len(alike)


@dataclass
class RowGroups:
    """Images of row groups, the last used ones kept in memory; any thread may ask."""

    _kept: OrderedDict[tuple[str, int, str], Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def image(self, file: str, group: int, column: str, row: int) -> bytes:
        """The bytes in a row of a row group."""
        with self._lock:
            cells = self._kept.pop((file, group, column), None)
            if cells is None:
                import pyarrow

                try:
                    cells = _open(file).read_row_group(group, columns=[column]).column(column).combine_chunks()
                except (pyarrow.ArrowException, OSError) as error:
                    raise OSError(f"row group {group} of `{file}` cannot be read: {quoted(error)}") from error
                while self._kept and sum(each.nbytes for each in self._kept.values()) + cells.nbytes > KEPT:
                    self._kept.popitem(last=False)
            self._kept[file, group, column] = cells
        value = cells[row].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the cell holds no image")
        return data


def _open(file: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ZooError(f"`{file}` needs pyarrow", hint="`pip install backbone-zoo[parquet]`") from error
    if is_url(file):
        raise UsageError(f"`{file}` is a URL, and tables of images are read in place", hint="download it first")
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ZooError(f"`{file}` cannot be read as parquet: {quoted(error).rstrip('.')}") from error


class _Row(NamedTuple):
    """A row of a file: the name that its image has there, and the number of the row from 0."""

    name: str
    number: int
    label: str
    source: ImageSource | Place
    split: str | None
    group: str | None


class _Cells:
    """Images in a column of a file, by the numbers of their rows."""

    def __init__(self, file: str, groups: RowGroups, column: str, starts: npt.NDArray[np.int64]) -> None:
        self._file, self._groups, self._column, self._starts = file, groups, column, starts

    def source(self, id: str, first: int, second: int) -> ImageSource:
        group = int(np.searchsorted(self._starts, first, "right")) - 1
        load = partial(self._groups.image, self._file, group, self._column, first - int(self._starts[group]))
        return BytesSource(f"{self._file}, row {first + 1}", load)


class _Table:
    """One file, read a row group at a time."""

    def __init__(self, file: str, argument: Argument, rows: LabelledRows, groups: RowGroups) -> None:
        self._file, self._argument = file, argument
        table = _open(file)  # and closed again: there may be thousands
        schema = table.schema_arrow
        rows.files[file] = _digest(table, file)
        self._columns = _columns(file, schema, argument, rows)
        self._class_names = _class_names(schema, self._columns["label"])
        image = self._columns["image"]
        assert image is not None
        self._image = image
        kind = schema.field(image).type
        self._whole = _is_text(kind)
        # of a struct, the paths alone are read
        self._has_path = not self._whole and kind.num_fields > 0 and kind.get_field_index("path") >= 0
        sizes = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        if not sum(sizes):
            raise ZooError(f"`{file}` has no rows")
        self._sizes = sizes
        self._cells = _Cells(file, groups, image, np.cumsum([0, *sizes[:-1]]))

    def names(self) -> Iterator[str]:
        """Yield the name that each image has, without those that are rejected."""
        unused = LabelledRows(name="", labelled=False)
        if self._whole:
            yield from (row.name for row in self.rows(unused, quiet=True))
        elif not self._has_path:
            yield ""
        else:
            yield from (self._path(one) for one in self._read([f"{self._image}.path"]))

    def _path(self, one: dict[str, Any]) -> str:
        inner = one.get(self._image)
        return cell_text(inner.get("path")).replace("\\", "/") if isinstance(inner, dict) else ""

    def _read(self, wanted: list[str]) -> Iterator[dict[str, Any]]:
        table = _open(self._file)
        for group, size in enumerate(self._sizes):
            yield from table.read_row_group(group, columns=wanted).to_pylist() if wanted else [{}] * size

    def rows(self, rows: LabelledRows, *, quiet: bool = False) -> Iterator[_Row]:
        """Yield every row; with `quiet`, an image that does not exist is no error."""
        columns, image = self._columns, self._image
        parts = [column for name, column in columns.items() if column and name != "image"]
        paths = [image] if self._whole else [f"{image}.path"] if self._has_path else []
        located = self._files(rows) if self._whole else None
        for number, one in enumerate(self._read(list(dict.fromkeys([*parts, *paths])))):

            def cell(name: str, one: dict[str, Any] = one) -> str | None:
                column = columns[name]
                return None if column is None else _cell(one[column], column, self._file)

            label = cell("label") or ""
            if self._class_names is not None and label.isdigit() and int(label) < len(self._class_names):
                label = self._class_names[int(label)]
            if located is not None:
                found = located.find(cell_text(one[image]), rows, self._file, number + 1)
                if found is None:
                    continue
                name, source = found
                yield _Row(cell("id") or name, number, label, source, cell("split"), cell("group"))
            else:
                name = cell("id") or self._path(one)
                yield _Row(name, number, label, Place(self._cells, number), cell("split"), cell("group"))
        if located is not None and not quiet:
            located.check_some(self._file)

    def _files(self, rows: LabelledRows) -> ImageFiles:
        first = (cell_text(one[self._image]) for one in self._read([self._image]))
        cells = [text for text in islice(first, LOOKED_AT) if text]
        return image_files(self._file, cells, self._argument.get("root"), self._argument.get("suffix"), rows)


def _cell(value: Any, column: str, file: str) -> str:
    if isinstance(value, (list, dict)):
        raise ZooError(
            f"column `{column}` of `{file}` holds a {type(value).__name__}, not one value", hint="name another column"
        )
    return cell_text(value)


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_image(kind: Any) -> bool:
    import pyarrow.types

    types = pyarrow.types
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _columns(file: str, schema: Any, argument: Argument, rows: LabelledRows) -> dict[str, str | None]:
    """The column of each kind: that which an option names, or the only one that can be meant."""
    found: dict[str, str | None] = {}
    for option in ("image", "label", "split", "group", "id"):
        found[option] = argument.get(option)
        if found[option] is not None and found[option] not in schema.names:
            names = " ".join(f"`{name}`" for name in schema.names[:12])
            hint = did_you_mean(str(found[option]), schema.names, f"it has {names}")
            raise UsageError(f"`{file}` has no column `{found[option]}`, which `{option}` names", hint=hint)
    guesses = {
        "image": [name for name in schema.names if _is_image(schema.field(name).type)],
        "label": [name for name in schema.names if name.lower() in LABEL_NAMES],
        "split": [name for name in schema.names if name.lower() in SPLIT_NAMES],
    }
    guessed = []
    for option, likely in guesses.items():
        if found[option] is not None or (option == "label" and not rows.labelled):
            continue
        if len(likely) == 1:
            found[option] = likely[0]
            guessed.append(f"{option}=`{likely[0]}`")
        elif option != "split":
            known = " ".join(f"`{name}`" for name in schema.names[:12])
            raise ZooError(
                f"`{file}` has no column that can only hold {'images' if option == 'image' else 'labels'}",
                hint=f"name it, such as `{option}={(likely or schema.names)[-1]}`; the columns are {known}",
            )
    kind = schema.field(found["image"]).type
    if not _is_image(kind) and not _is_text(kind):
        raise ZooError(f"column `{found['image']}` of `{file}` holds {kind}, neither images nor paths")
    if guessed:
        rows.notes.append(f"columns of `{file}`: {' '.join(guessed)}, by their names and what they hold")
    return found


def _class_names(schema: Any, column: str | None) -> list[str] | None:
    """Names of classes that Hugging Face's `datasets` writes beside a column of numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):
        return None


def _digest(table: Any, file: str) -> str:
    """SHA-256 of the file's footer and size: the footer has the statistics of all columns, and images are hashed one by
    one when they are read."""
    with Path(file).open("rb") as stream:
        stream.seek(max(0, Path(file).stat().st_size - table.metadata.serialized_size - 8))
        return hashlib.sha256(stream.read()).hexdigest()
