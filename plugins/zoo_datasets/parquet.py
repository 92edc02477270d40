"""`parquet:part-*.parquet,image=image,label=label`: tables that hold encoded images, or paths of image files.

Reading needs pyarrow (extra `parquet`). Memory holds positions of rows; a row group is read when one of its images is.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind, is_url
from zoo.data.labelled_rows import LabelledRows
from zoo.data.table import LABEL_NAMES, SPLIT_NAMES, cell_text
from zoo.dataset import BytesSource, ImageSource
from zoo.errors import did_you_mean, quoted
from zoo_datasets.image_files import image_files
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
KEPT = 256 << 20  # bytes of row groups that are kept, so that neighbours are not read again


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the rows of every file.

    Raises:
        UsageError: a file or a column does not exist.
        ZooError: pyarrow is not installed, a file is damaged, or a column cannot be told.
    """
    files = files_by_split(argument, "table", rows)
    groups = RowGroups()
    found = [(name, file, role, row) for file, role in files for name, row in _rows_of(file, argument, rows, groups)]
    names = [name for name, *_ in found]
    if "id" not in argument.options and ("" in names or len(set(names)) < len(names)):
        rows.notes.append("images have no names of their own, so an image is called by its file and row")
        names = [f"{Path(file).stem}/{row['row']:08d}" for _, file, _, row in found]
    for name, (_, file, role, row) in zip(names, found):
        rows.add(
            name,
            row["label"],
            row["source"],
            split=role or row["split"],
            group=row["group"],
            table=file,
            line=row["row"] + 1,
        )


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
            self._kept[file, group, column] = cells
            while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > KEPT:
                self._kept.popitem(last=False)
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


def _rows_of(
    file: str, argument: Argument, rows: LabelledRows, groups: RowGroups
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name that each image of a file has there, and its row."""
    table = _open(file)
    schema = table.schema_arrow
    rows.files[file] = _digest(table, file)
    columns = _columns(file, schema, argument, rows)
    names = _class_names(schema, columns["label"])
    image = columns["image"]
    assert image is not None
    kind = schema.field(image).type
    whole = _is_text(kind)
    parts = [column for name, column in columns.items() if column and name != "image"]
    # of a struct, the paths alone are read now
    has_path = not whole and kind.num_fields and kind.get_field_index("path") >= 0
    wanted = list(dict.fromkeys([*parts, *([image] if whole else []), *([f"{image}.path"] if has_path else [])]))
    located = None
    number = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        cells = table.read_row_group(group, columns=wanted).to_pylist() if wanted else [{}] * size
        for row, one in enumerate(cells):

            def cell(name: str, one: dict[str, Any] = one) -> str | None:
                column = columns[name]
                return None if column is None else _cell(one[column], column, file)

            label = cell("label") or ""
            if names is not None and label.isdigit() and int(label) < len(names):
                label = names[int(label)]
            source: ImageSource
            if whole:
                if located is None:
                    first = [text for each in cells[:50] if (text := each[image])]
                    located = image_files(file, first, argument.get("root"), argument.get("suffix"), rows)
                found = located.find(cell_text(one[image]), rows, file, number + 1)
                if found is not None:
                    name, source = found
            else:
                inner = one.get(image)
                path = cell_text(inner.get("path")) if isinstance(inner, dict) else ""
                name = path.replace("\\", "/")
                at = f"{file}, row {number + 1}"
                source = BytesSource(at, partial(groups.image, file, group, image, row))
                found = (name, source)
            if found is not None:
                own = {"row": number, "label": label, "source": source, "split": cell("split"), "group": cell("group")}
                yield cell("id") or name, own
            number += 1
    if located is not None:
        located.check_some(file)
    if not number:
        raise ZooError(f"`{file}` has no rows")


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
