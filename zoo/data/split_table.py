"""Split tables: `--splits splits.csv` divides any data by the rows of a table of paths and splits.

In the text of `--data`, which a run records, the table stands before the data: `splits:"splits.csv":photos`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from zoo.data.class_names import composed
from zoo.data.data_argument import absolute_path
from zoo.data.folder_walk import walk_order
from zoo.data.labelled_rows import check_several_classes, check_splits, no_role, roles_hint
from zoo.data.split_words import role_of
from zoo.data.table import PATH_NAMES, SPLIT_NAMES, read_table
from zoo.dataset import ROLES, Images, Role, Sample
from zoo.errors import UsageError, ZooError, counted
from zoo.storage.paths import user_path

_TABLE = re.compile(r'splits:"((?:[^"]|"")*)":(.+)', re.DOTALL)


def split_table_of(spec: str) -> tuple[str | None, str]:
    """The split table before the data, and the data; None: there is no table."""
    found = _TABLE.fullmatch(spec)
    return (found[1].replace('""', '"'), found[2]) if found else (None, spec)


def with_split_table(file: str | Path, spec: str, base: Path | None = None) -> str:
    """The text of `--data` for data that a table divides; its path is made absolute.

    Args:
        file: The table.
        spec: The data.
        base: The folder that a relative path begins at. None: the current one.
    """
    path = absolute_path(str(file), base).replace('"', '""')
    return f'splits:"{path}":{spec}'


def divided_by(images: Images, file: str) -> Images:
    """The images in the splits that a table names; an image that it does not name is left out and reported.

    Args:
        images: Labelled images, in any splits.
        file: Path of a CSV, TSV or JSON Lines file with a column of paths, as images are called in the data, and one of
            splits.

    Raises:
        UsageError: there is no such file.
        ZooError: it cannot be used, names none of the images, or leaves a class out of a split.
    """
    if not user_path(file).is_file():
        raise UsageError(f"there is no file `{file}`, which `--splits` names")
    table = read_table(user_path(file).read_bytes(), file)
    path, split = _columns(file, table.columns, table.guess((*PATH_NAMES, "id")), table.guess(SPLIT_NAMES))
    roles: dict[str, tuple[Role, int]] = {}
    for line, cells in table.rows():
        role = role_of(cells[split])
        if role is None:
            raise ZooError(f"line {line} of `{file}` has {no_role(cells[split])}", hint=roles_hint(cells[split]))
        known, before = roles.setdefault(composed(cells[path].replace("\\", "/")), (role, line))
        if known != role:
            raise ZooError(f"`{cells[path]}` is in two splits: lines {before} and {line} of `{file}`")
    samples = {composed(one.id): one for part in images.splits.values() for one in part}
    if not set(samples) & set(roles):
        raise ZooError(
            f"`{file}` names none of the images of `{images.name}`: it has `{next(iter(roles))}`, and they are called "
            f"`{next(iter(samples.values())).id}` and the like",
            hint="a path is that below the data folder",
        )
    parts: dict[Role, list[Sample]] = {}
    for name, sample in samples.items():
        if name in roles:
            parts.setdefault(roles[name][0], []).append(sample)
    splits = {role: tuple(sorted(parts[role], key=lambda one: walk_order(one.id))) for role in ROLES if role in parts}
    if "train" not in splits or len(splits) < 2:
        words = " ".join(f"`{role}`" for role in splits)
        raise ZooError(f"`{file}` has {words} alone", hint="training needs `train`, and `val` or `test`")
    notes = list(images.notes if not images.drawn else ()) + list(table.notes)
    counts = Counter({role: len(part) for role, part in splits.items()})
    notes.append(f"splits are those of `{file}`: " + ", ".join(f"{role} {counts[role]:,}" for role in splits))
    absent = set(roles) - set(samples)
    if absent:
        some = min(absent)
        notes.append(f"{counted(len(absent), 'row')} of `{file}` name no image of the data, such as `{some}`")
    left = [(one.id, f"is not in `{file}`") for name, one in samples.items() if name not in roles]
    check_several_classes(splits["train"], images.name)
    divided = replace(
        images,
        classes=tuple(sorted({one.label for one in splits["train"]})),
        splits=splits,
        rejected=(*images.rejected, *left),
        notes=tuple(notes),
        drawn=False,
        files={**images.files, file: table.sha256},
    )
    check_splits(divided, f"{images.name}, by `{file}`", "every class needs images in every split")
    return divided


def _columns(file: str, names: tuple[str, ...], path: int | None, split: int | None) -> tuple[int, int]:
    if len(names) == 2 and (path is None) != (split is None):
        path, split = (path, 1 - path) if path is not None else (1 - (split or 0), split)
    if path is None or split is None:
        raise ZooError(
            f"`{file}` has no columns that can only hold paths and splits",
            hint=f"name them `path` and `split`; it has {' '.join(f'`{name}`' for name in names[:12])}",
        )
    return path, split
