"""Tables: rows of CSV, TSV and JSON Lines files, whose encoding and separator are found, said, and never guessed wrong
in silence."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.image_formats import FOREIGN_SUFFIXES, SUFFIXES
from zoo.errors import UsageError, ZooError, did_you_mean, quoted
from zoo.storage.files import json_text

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
LINES_SUFFIXES = (".jsonl", ".ndjson")
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
LOOKED_AT = 50  # rows from which the separator and the columns are told
SHOWN = 12  # columns in a message

# Usual names of the columns, in lower case; a column that is guessed is the only one of its kind
PATH_NAMES = (
    *("path", "paths", "file", "files", "filename", "filenames", "file_name", "filepath", "file_path", "fname"),
    *("image", "images", "image_path", "image_name", "image_file", "image_id", "img", "img_path", "img_name"),
)
LABEL_NAMES = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed")
SPLIT_NAMES = ("split", "splits", "set", "subset", "partition")


@dataclass(frozen=True, kw_only=True)
class Table:
    """An opened table.

    Attributes:
        name: The file, as it was named.
        columns: Names of the columns.
        first: The first rows, each with its line number; enough to see what a column holds.
        sha256: Digest of the file.
        notes: What was found out about the file, for the user.
    """

    name: str
    columns: tuple[str, ...]
    first: tuple[tuple[int, tuple[str, ...]], ...]
    sha256: str
    notes: tuple[str, ...] = ()
    _text: str = field(repr=False, default="")
    _delimiter: str | None = field(repr=False, default=None)

    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield every row as its line number and its cells as text, one for each column; a missing one is empty.

        Raises:
            ZooError: a row has another number of cells than the header, or cannot be read.
        """
        if self._delimiter is None:
            return _json_rows(self._text, self.name, self.columns)
        return _csv_rows(self._text, self.name, self._delimiter, self.columns)

    def index(self, column: str, option: str) -> int:
        """The position of a column that an option names.

        Raises:
            UsageError: there is no such column, or there are two.
        """
        count = self.columns.count(column)
        if count == 1:
            return self.columns.index(column)
        if count:
            raise UsageError(f"`{self.name}` has {count} columns `{column}`", hint="rename all but one")
        shown = " ".join(f"`{name}`" for name in self.columns[:SHOWN]) + (" ..." if len(self.columns) > SHOWN else "")
        raise UsageError(
            f"`{self.name}` has no column `{column}`, which `{option}` names",
            hint=did_you_mean(column, self.columns, f"it has {shown}"),
        )

    def guess(self, names: Sequence[str]) -> int | None:
        """The position of the only column with one of the usual names; None: there is none, or there are several."""
        found = [index for index, name in enumerate(self.columns) if name.strip().lower() in names]
        return found[0] if len(found) == 1 else None

    def cells(self, index: int) -> list[str]:
        """The cells of a column in the first rows, without empty ones."""
        return [row[index] for _, row in self.first if row[index]]


def read_table(
    data: bytes, name: str, *, delimiter: str | None = None, encoding: str | None = None, header: bool = True
) -> Table:
    """Open a table.

    Args:
        data: The content of the file.
        name: Its path or URL; a suffix `.jsonl` or `.ndjson` makes it JSON Lines.
        delimiter: What separates cells: one character, or the word `tab`. None: it is found.
        encoding: Of the text, such as `latin-1`. None: UTF-8, or UTF-16 with a byte order mark.
        header: Whether the first line names the columns. Without, columns are `1`, `2` and so on.

    Raises:
        UsageError: the delimiter or encoding is unknown.
        ZooError: the file is empty, is not valid text, has no header, or its separator cannot be told.
    """
    notes: list[str] = []
    text = decoded_text(data, name, encoding, notes)
    digest = hashlib.sha256(data).hexdigest()
    if not text.strip():
        raise ZooError(f"`{name}` is empty", hint="it needs a header such as `path,label`, and a row for each image")
    if Path(name).suffix.lower() in LINES_SUFFIXES:
        columns = _json_columns(text, name)
        found = None
    else:
        if text.lstrip()[:1] in "[{" and '"' in text[:1000] and delimiter is None:
            raise ZooError(
                f"`{name}` is JSON, not a table of separated cells",
                hint="name it `.jsonl` if each line is an object; exports of annotation tools are read by `coco:`",
            )
        found = _delimiter(text, name, delimiter, notes)
        line, cells = next(_raw_rows(text, name, found))
        columns = tuple(cell.strip() for cell in cells) if header else tuple(str(i + 1) for i in range(len(cells)))
        if header and (image := next((cell for cell in columns if _is_image(cell)), None)) is not None:
            raise ZooError(
                f"`{name}` has no header: its line {line} names the image `{image}`",
                hint=f"add a first line that names the columns, such as `{_example(len(columns), found)}`",
            )
        if not header:
            text = found.join(columns) + "\n" + text
    table = Table(name=name, columns=columns, first=(), sha256=digest, notes=tuple(notes), _text=text, _delimiter=found)
    first = []
    for row in table.rows():
        first.append(row)
        if len(first) == LOOKED_AT:
            break
    if not first:
        raise ZooError(f"`{name}` has a header and no rows", hint="it needs a row for each image")
    object.__setattr__(table, "first", tuple(first))
    return table


def _example(count: int, delimiter: str) -> str:
    return delimiter.join(["path", "label", "split"][:count]) if count < 4 else delimiter.join(["path", "label", "..."])


def _is_image(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in (*SUFFIXES, *FOREIGN_SUFFIXES)


def decoded_text(data: bytes, name: str, encoding: str | None, notes: list[str]) -> str:
    """The text of a file: in the encoding that is asked for, else UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UsageError: there is no such encoding.
        ZooError: it is not valid text in it; the message names the line.
    """
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    found = encoding or next((known for mark, known in marks if data.startswith(mark)), "utf-8")
    try:
        codecs.lookup(found)
        text = data.decode(found)
    except LookupError as error:
        raise UsageError(f"there is no encoding `{encoding}`", hint="such as `utf-8`, `latin-1` or `cp1252`") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raw = data.split(b"\n")[line - 1].strip()[:40] if line else b""
        what = "`encoding=cp1252` if it comes from Windows, `encoding=latin-1`"
        raise ZooError(
            f"line {line} of `{name}` is not valid {found.removesuffix('-sig').upper()}: `{str(raw)[2:-1]}`",
            hint=f"save it as UTF-8, or say how it is encoded, such as {what}",
        ) from error
    if "\0" in text:
        raise ZooError(
            f"`{name}` holds bytes of value 0, as text in UTF-16 without a byte order mark does, or a file that is no "
            "text",
            hint="save it as UTF-8, or pass `encoding=utf-16-le`",
        )
    if found == "utf-16":
        notes.append(f"`{name}` is encoded in UTF-16")
    return text.removeprefix("\ufeff")


def _delimiter(text: str, name: str, asked: str | None, notes: list[str]) -> str:
    """The character that separates cells: the one that is asked for, or the only one that divides the header.

    Raises:
        UsageError: it is not one character.
        ZooError: several divide it, and rows do not tell which is meant.
    """
    if asked is not None:
        one = {word: mark for mark, word in DELIMITERS.items()}.get(asked.lower(), asked.replace("\\t", "\t"))
        if len(one) != 1 or one in '"\r\n':
            raise UsageError(
                f"`delimiter={asked}` is not one character", hint="such as `delimiter=;` or `delimiter=tab`"
            )
        return one
    if Path(name).suffix.lower() == ".tsv":
        return "\t"
    head = text[:200_000]
    counts: dict[str, list[int]] = {}
    for mark in DELIMITERS:
        counts[mark] = []
        try:
            for _, cells in _raw_rows(head, name, mark):
                counts[mark].append(len(cells))
                if len(counts[mark]) > LOOKED_AT:
                    break
        except ZooError:
            pass  # the end of the text that is looked at, inside a quoted cell
    dividing = [mark for mark, sizes in counts.items() if sizes and sizes[0] > 1]
    even = [mark for mark in dividing if len(set(counts[mark])) == 1]
    chosen = even if even else dividing
    if len(chosen) == 1 or (chosen and chosen[0] == ","):
        if chosen[0] != ",":
            notes.append(f"cells of `{name}` are separated by a {DELIMITERS[chosen[0]]}")
        return chosen[0]
    if not chosen:
        return ","  # one column
    words = " or ".join(f"a {DELIMITERS[mark]}" for mark in chosen)
    raise ZooError(f"cells of `{name}` are separated by {words}", hint="say which, such as `delimiter=;`")


def _raw_rows(text: str, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each line that is not empty: its number and its cells."""
    skips = delimiter != " "  # a space before a quoted cell is no part of it
    # an `io.StringIO` would take four bytes for each character
    lines = (line[0] for line in _LINE.finditer(text))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skips, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ZooError(
                f"line {line} of `{name}` cannot be read: {quoted(error)}",
                hint='a cell that begins with `"` ends with `"`, and quotes inside it are doubled',
            ) from error
        if any(cell.strip() for cell in cells):
            yield line, cells


def _csv_rows(text: str, name: str, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    rows = _raw_rows(text, name, delimiter)
    next(rows)
    for line, cells in rows:
        if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
            other = next((mark for mark in DELIMITERS if mark != delimiter and mark in "".join(cells)), None)
            what = f": a {DELIMITERS[other]} seems to separate its cells" if other and len(cells) == 1 else ""
            raise ZooError(
                f"line {line} of `{name}` has {len(cells)} cells where the header has {len(columns)}{what}",
                hint="a cell that holds the separator stands in quotes; `delimiter=` names another separator",
            )
        yield line, tuple(cell.strip() for cell in cells[: len(columns)])


def _lines(text: str) -> Iterator[str]:
    """The lines of `text.split("\\n")`, one at a time."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _json_objects(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ZooError(f"line {number} of `{name}` is not JSON: {quoted(error)}") from error
        if not isinstance(found, dict):
            raise ZooError(
                f"line {number} of `{name}` is a JSON {type(found).__name__}, not an object",
                hint='each line is an object, such as `{"path": "a.jpg", "label": "ant"}`',
            )
        yield number, found


def _json_columns(text: str, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for _, one in _json_objects(text, name) for key in one))


def _json_rows(text: str, name: str, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    for line, one in _json_objects(text, name):
        yield line, tuple(cell_text(one.get(column)) for column in columns)


def cell_text(value: Any) -> str:
    """A cell of a typed table as text; empty for a missing one (null or NaN)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    return json_text(value) if isinstance(value, (dict, list)) else str(value)
