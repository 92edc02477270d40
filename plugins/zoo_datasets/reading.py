"""Readers of labelled rows: from the argument of `csv:`, `zip:` and the like to images. One module reads each family.

A reader's module has `OPTIONS`, the options of its argument, and `read(argument, rows)`, which adds what it finds.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from zoo import Images, UsageError
from zoo.data.data_argument import Argument, Kind, matching_files, parse_argument, resolved_argument
from zoo.data.labelled_rows import LabelledRows
from zoo.data.split_words import role_in_name
from zoo.dataset import Unlabelled

# The module of each dataset
READERS = {
    "csv": "zoo_datasets.tables",
    "wds": "zoo_datasets.webdataset",
    "parquet": "zoo_datasets.parquet",
    "list": "zoo_datasets.lists",
    "coco": "zoo_datasets.annotations",
    "hf": "zoo_datasets.huggingface",
    "torchvision": "zoo_datasets.torchvision_sets",
}

# Options of readers whose files can be given for each split
BY_SPLIT: dict[str, Kind] = {"train": "path", "val": "path", "test": "path"}


def open_rows(dataset: str, text: str, split_seed: int) -> Images:
    """Open a dataset to train on.

    Args:
        dataset: Its name, as in `READERS`.
        text: Its argument.
        split_seed: Seed of the split, where the data come without one.
    """
    return _read(dataset, text, labelled=True).images(split_seed)


def score_rows(dataset: str, text: str) -> Images:
    """Open a dataset to evaluate a model on, of any size and with any splits."""
    return _read(dataset, text, labelled=True).images_to_score()


def unlabelled_rows(dataset: str, text: str) -> Unlabelled:
    """Open a dataset to predict; labels are not looked at."""
    return _read(dataset, text, labelled=False).unlabelled()


def grouped_rows(dataset: str, text: str, group: str) -> str | None:
    """The argument with the groups of a column; None: there is no such column, so `group` is a pattern.

    Raises:
        UsageError: the argument names another column of groups.
    """
    options = _reader(dataset).OPTIONS
    if "group" not in options:
        return None
    argument = parse_argument(dataset, text, options)
    if (known := argument.get("group")) not in (None, group):
        raise UsageError(f"`--group {group}` and `group={known}` of `{dataset}:` are two columns", hint="leave out one")
    grouped = str(replace(argument, options={**argument.options, "group": group}))
    try:
        _read(dataset, grouped, labelled=False)
    except UsageError:
        return None
    return grouped


def absolute_rows(dataset: str, text: str, base: Path) -> str:
    """The argument with absolute paths. What cannot be read is unchanged: the error comes when it is opened."""
    reader = _reader(dataset)
    try:
        argument = parse_argument(dataset, text, reader.OPTIONS)
    except UsageError:
        return text
    own = getattr(reader, "absolute", resolved_argument)
    return str(own(argument, reader.OPTIONS, base))


def _reader(dataset: str) -> ModuleType:
    return importlib.import_module(READERS[dataset])


def _read(dataset: str, text: str, *, labelled: bool) -> LabelledRows:
    reader = _reader(dataset)
    argument = parse_argument(dataset, text, reader.OPTIONS)
    if not argument.files and not set(BY_SPLIT) & set(argument.options):
        raise UsageError(f"`{dataset}:` needs a file", hint=reader.EXAMPLE)
    rows = LabelledRows(name=f"{dataset}:{argument}", labelled=labelled)
    reader.read(argument, rows)
    return rows


def files_by_split(argument: Argument, what: str, rows: LabelledRows) -> list[tuple[str, str | None]]:
    """The files of an argument, each with the word of its split, or None where files say nothing of splits.

    Splits are those of the options `train=`, `val=` and `test=`. Several files without a name are splits if the name of
    each has a word for one, such as `train.csv` and `val.csv`, and they are not all the same; a note says so.

    Raises:
        UsageError: a file does not exist, or files with and without a split are mixed.
    """
    named = [(role, argument.options[role]) for role in BY_SPLIT if role in argument.options]
    if named and argument.files:
        raise UsageError(
            f"`{argument.dataset}:` has {what}s with a split and `{argument.files[0]}` without one",
            hint="name the split of each: `train=`, `val=` or `test=`",
        )
    if named:
        return [(file, role) for role, text in named for file in matching_files(text, what)]
    files = [file for text in argument.files for file in matching_files(text, what)]
    roles = {file: role_in_name(file) for file in files}
    if None in roles.values() or len(set(roles.values())) < 2:
        return [(file, None) for file in files]
    said = {role: next(file for file in files if roles[file] == role) for role in dict.fromkeys(roles.values())}
    rows.notes.append("; ".join(f"`{Path(file).name}` is `{role}`" for role, file in said.items()) + ", by its name")
    return [(file, roles[file]) for file in files]
