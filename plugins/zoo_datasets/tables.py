"""`csv:train.csv,path=file,label=species`: tables of paths and labels, as CSV, TSV or JSON Lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind
from zoo.data.image_formats import FOREIGN_SUFFIXES, SUFFIXES
from zoo.data.labelled_rows import ONE_LABEL, LabelledRows
from zoo.data.split_words import role_of
from zoo.data.table import LABEL_NAMES, PATH_NAMES, SPLIT_NAMES, Table, read_table
from zoo_datasets.image_files import image_files
from zoo_datasets.reading import BY_SPLIT, files_by_split
from zoo_datasets.remote import read_file

OPTIONS: dict[str, Kind] = {
    **BY_SPLIT,
    "path": "text",
    "label": "text",
    "split": "text",
    "group": "text",
    "root": "path",
    "suffix": "text",
    "delimiter": "text",
    "encoding": "text",
    "header": "text",
}
EXAMPLE = "such as `csv:train.csv,path=file,label=species`"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Positions of the columns that are read; None: the table has no such column."""

    path: int
    label: int | None
    split: int | None
    group: int | None


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the rows of every table.

    Raises:
        UsageError: a table or a column does not exist.
        ZooError: a table cannot be used.
    """
    if (header := argument.get("header")) not in (None, "yes", "no"):
        raise UsageError(f"`header={header}` is neither `yes` nor `no`")
    for file, role in files_by_split(argument, "table", rows):
        data = read_file(file)
        table = read_table(
            data, file, delimiter=argument.get("delimiter"), encoding=argument.get("encoding"), header=header != "no"
        )
        rows.files[file] = table.sha256
        rows.notes += table.notes
        columns = columns_of(table, argument, rows, by_file=role is not None)
        root, suffix = argument.get("root"), argument.get("suffix")
        found = image_files(file, table.cells(columns.path), root, suffix, rows)
        for line, cells in table.rows():
            image = found.find(cells[columns.path], rows, file, line)
            if image is None:
                continue
            name, source = image
            label = "" if columns.label is None else cells[columns.label]
            if label[:1] + label[-1:] in ("[]", "{}") and len(label) > 1:  # as JSON and pandas write them
                raise ZooError(f"line {line} of `{file}` has several labels: `{label[:80]}`", hint=ONE_LABEL)
            rows.add(
                name,
                label,
                source,
                split=role or (None if columns.split is None else cells[columns.split]),
                group=None if columns.group is None else cells[columns.group],
                table=file,
                line=line,
            )
        found.check_some(file)


def columns_of(table: Table, argument: Argument, rows: LabelledRows, *, by_file: bool) -> Columns:
    """The columns that are read: those that options name, and those that are unmistakable, which a note tells.

    Args:
        table: The table.
        argument: May have the options `path`, `label`, `split` and `group`.
        rows: Receives the note; without labels, no column of labels is needed.
        by_file: Whether the table is a split as a whole.

    Raises:
        UsageError: a column that an option names does not exist.
        ZooError: the column of paths or of labels is not named and cannot be told.
    """
    asked = {
        name: table.index(column, name)
        for name in ("path", "label", "split", "group")
        if (column := argument.get(name)) is not None
    }
    path = asked.get("path", _path_column(table, set(asked.values())))
    if path is None:
        raise _untold(table, "path", "paths of images")
    split = asked.get("split")
    if split is None and not by_file:
        split = _split_column(table, rows)
    label = asked.get("label")
    if label is None and rows.labelled:
        label = _label_column(table, {path, split, *asked.values()})
        if label is None:
            raise _untold(table, "label", "labels")
    if by_file and "split" in asked:
        raise UsageError(f"`split` names a column, and `{table.name}` is a split as a whole", hint="leave out one")
    columns = Columns(path=path, label=label, split=split, group=asked.get("group"))
    told = {"path": path, "label": label, "split": split}
    guessed = [f"{name}=`{table.columns[at]}`" for name, at in told.items() if at is not None and name not in asked]
    if guessed:
        rows.notes.append(f"columns of `{table.name}`: {' '.join(guessed)}, by their names and what they hold")
    return columns


def _path_column(table: Table, taken: set[int]) -> int | None:
    """The only column that holds names of images; else the only one with a usual name."""
    known = (*SUFFIXES, *FOREIGN_SUFFIXES)
    holding = [
        index
        for index in range(len(table.columns))
        if index not in taken and (cells := table.cells(index)) and all(cell.lower().endswith(known) for cell in cells)
    ]
    if len(holding) == 1:
        return holding[0]
    found = table.guess(PATH_NAMES)
    if found is None and not holding:
        found = table.guess(("id",))  # as in Kaggle's tables, without a suffix
    return found


def _label_column(table: Table, taken: set[int | None]) -> int | None:
    """The only column with a usual name; else the only one that is left."""
    found = table.guess(LABEL_NAMES)
    if found is not None and found not in taken:
        return found
    named = [name for name in table.columns if name.strip().lower() in LABEL_NAMES]
    left = [index for index, name in enumerate(table.columns) if index not in taken and name.strip()]
    return left[0] if len(left) == 1 and not named else None


def _split_column(table: Table, rows: LabelledRows) -> int | None:
    """The only column with a usual name, if any cell is a word for a split; a note tells of one that is not used.

    A cell that is none, among others that are, is an error of the row: the data would be divided anew otherwise.
    """
    found = table.guess(SPLIT_NAMES)
    if found is None or not (cells := table.cells(found)):
        return None
    if any(map(role_of, cells)):
        return found
    if rows.labelled:
        what = f"column `{table.columns[found]}` of `{table.name}` is not used: `{cells[0]}` is no split"
        rows.notes.append(f"{what}; `--splits` divides data by a table, `group=` keeps a column's groups together")
    return None


def _untold(table: Table, option: str, what: str) -> ZooError:
    names: Sequence[str] = [f"`{name}`" for name in table.columns[:12]]
    return ZooError(
        f"`{table.name}` has no column that can only hold {what}",
        hint=f"name it, such as `{option}={table.columns[-1]}`; the columns are {' '.join(names)}",
    )
