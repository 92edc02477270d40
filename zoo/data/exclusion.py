"""Exclusion: images that the user has marked in `doctor.csv`, or listed, and that are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.data.class_names import respelt
from zoo.data.sample_columns import columns_of, ids_of
from zoo.data.spreadsheet import read_csv, restored
from zoo.dataset import Images
from zoo.errors import ZooError, counted
from zoo.storage.paths import user_path

OPTION = "--exclude"
YES, NO = ("yes", "y", "true", "1", "x"), ("no", "n", "false", "0", "")
SHOWN = 5  # ids in a message


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A read list of images to exclude.

    Attributes:
        file: The list.
        sha256: Of its bytes.
        ids: Ids that it asks to exclude, in its order, each once.
        data: Its bytes, which a run keeps.
    """

    file: str
    sha256: str
    ids: tuple[str, ...]
    data: bytes = field(repr=False, default=b"")

    def to_json(self, excluded: Collection[str]) -> dict[str, Any]:
        """JSON values for `run.json`; `excluded` are the ids that were in the data."""
        return {"file": self.file, "sha256": self.sha256, "images": sorted(excluded)}


def absolute_list(file: str | None, base: Path | None = None) -> str | None:
    """The path of a list made absolute, so that a run finds it from any folder; a relative one begins at `base`."""
    return None if file is None else str(((base or Path()) / user_path(file)).absolute())


def read_exclusion(file: Path | str) -> Exclusion:
    """Read a list of images to exclude: a CSV file with a column `id`.

    With a column `exclude`, as in `doctor.csv`, the rows count in which it says `yes`; without one, all rows do.

    Raises:
        UsageError: there is no such file.
        ZooError: it is not CSV, has no column `id`, or a row is broken.
    """
    path = user_path(file)
    data, header, rows = read_csv(path, OPTION)
    for name in ("id", "exclude"):
        if header.count(name) > 1:
            raise ZooError(f"`{path}` has two columns `{name}`")
    if "id" not in header:
        raise ZooError(
            f"`{path}` has no column `id`",
            hint=f"its columns are {' '.join(f'`{name}`' for name in header[:10])}; keep the first line",
        )
    id_column, mark_column = header.index("id"), header.index("exclude") if "exclude" in header else None
    ids: dict[str, None] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise ZooError(
                f"`{path}`, line {line}: {counted(len(row), 'cell')}, but the first line has {len(header)}",
                hint='a text with a comma or a quotation mark stands in quotation marks: "a, ""b"""',
            )
        mark = restored(row[mark_column].strip()).lower() if mark_column is not None else YES[0]
        if mark not in (*YES, *NO):
            raise ZooError(
                f"`{path}`, line {line}: `exclude` is `{row[mark_column or 0]}`, neither yes nor no",
                hint="write `yes` to leave an image out; an empty cell keeps it",
            )
        if mark in NO:
            continue
        if not row[id_column]:
            raise ZooError(f"`{path}`, line {line}: `id` is empty")
        ids[restored(row[id_column])] = None
    return Exclusion(file=str(path), sha256=hashlib.sha256(data).hexdigest(), ids=tuple(ids), data=data)


def exclude(images: Images, exclusion: Exclusion) -> tuple[Images, frozenset[str]]:
    """The images without those of a list, with notes; and the ids that were left out.

    Raises:
        ZooError: none of the listed ids is in the data, or a class has no image left in a split.
    """
    found, notes = match(images, exclusion)
    return replace(without(images, found, OPTION), notes=(*images.notes, *notes)), found


def match(images: Images, exclusion: Exclusion) -> tuple[frozenset[str], tuple[str, ...]]:
    """The ids of the data that a list asks to exclude, and notes about them.

    A listed file that the data rejected is known, too, as is an image that is in none of the splits: they are left out
    anyhow.

    Raises:
        ZooError: none of the listed ids is in the data.
    """
    present = [name for samples in images.splits.values() for name in ids_of(samples)]
    spelt = respelt(exclusion.ids, present)
    found = frozenset(spelt[name] for name in exclusion.ids) & frozenset(present)
    rejected = {name for name, _ in images.rejected} | {
        name for name, known in respelt(exclusion.ids, images.elsewhere).items() if known in images.elsewhere
    }
    missing = [name for name in exclusion.ids if spelt[name] not in found and name not in rejected]
    listed = " ".join(f"`{name}`" for name in missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
    if missing and len(missing) == len(exclusion.ids):
        raise ZooError(
            f"`{exclusion.file}` is of other data: none of its {counted(len(missing), 'id')} is in `{images.name}`: "
            f"{listed}",
            hint="pass the file that `zoo doctor` wrote for these data",
        )
    if not exclusion.ids:
        return found, (f"`{OPTION} {exclusion.file}` marks no image, so none is left out",)
    notes = [f"`{OPTION} {exclusion.file}`: {counted(len(found), 'image is', 'images are')} left out"]
    if missing:
        what = counted(len(missing), "id", "ids")
        notes.append(f"{what} of `{exclusion.file}` {'is' if len(missing) == 1 else 'are'} not in the data: {listed}")
    return found, tuple(notes)


def without(images: Images, ids: Collection[str], option: str) -> Images:
    """The images without some; `option` asks for it, for messages.

    Raises:
        ZooError: a class has no image left in a split that it had images in.
    """
    if not ids:
        return images
    splits = {}
    for role, samples in images.splits.items():
        columns = columns_of(samples)
        kept = columns.take([index for index, name in enumerate(columns.ids()) if name not in ids])
        gone = set(columns.label_counts()) - set(kept.label_counts())
        if gone:
            raise ZooError(
                f"`{option}` leaves no image of class `{min(gone)}` in `{role}` of `{images.name}`",
                hint="keep some of them, or remove the class from the data",
            )
        splits[role] = kept
    return replace(images, splits=splits)
