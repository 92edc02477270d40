"""Class folders: the images and all other files in the folders of classes, and which folder is an image's class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo import Sample, ZooError
from zoo.data.folder_walk import is_clutter, is_photograph, subfolders, walk_files, why_unprintable, why_unusable
from zoo.data.image_formats import SUFFIXES
from zoo.data.labelled_rows import listed
from zoo.data.sample_columns import Below, Place, SampleColumns, SampleTable
from zoo.data.split_words import SPLIT_WORDS
from zoo.dataset import Role
from zoo.errors import counted
from zoo_datasets.member_tree import Member

# How folders become classes, and the name of the dataset that reads them so, as in `--classes-from leaf`
Reading = Literal["plain", "leaf", "top"]
READINGS: dict[Reading, str] = {"plain": "folder", "leaf": "folder-leaf", "top": "folder-top"}


@dataclass
class ClassFolders:
    """What lies in a data folder: samples as they are asked for, and the path and reason of every other file."""

    root: Path | Member
    reading: Reading
    table: SampleTable = field(default_factory=lambda: SampleTable(unique=True))  # each file is found once
    rejected: list[tuple[str, str]] = field(default_factory=list)
    nested: dict[str, str] = field(default_factory=dict)  # a lower folder with images, and the class it counts for
    runs: list[str] = field(default_factory=list)  # folders that zoo wrote
    merged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # class -> the folders of it

    def look_beside(self, roles: Mapping[Role, Path | Member]) -> None:
        """Reject the photographs beside the folders, and the folders beside those of the splits."""
        self._reject_loose(self.root)
        if roles:
            self.rejected += [
                (f"{self._name(folder)}/", "is not a split folder, so it is ignored")
                for folder in subfolders(self.root)
                if folder not in roles.values() and not _holds_runs(folder)
            ]

    def samples(self, base: Path | Member, *, may_be_empty: bool = False) -> Sequence[Sample]:
        """Every image in the class folders of `base`, at any depth; other files are rejected.

        The class is the highest folder below `base`, or the lowest one for the reading `leaf`.

        Raises:
            ZooError: a class folder holds no photographs, and `may_be_empty` is not set.
        """
        if base != self.root:
            self._reject_loose(base)
        place, first = Place(Below(self.root)), len(self.table)
        for folder in subfolders(base):
            before, rejected = len(self.table), len(self.rejected)
            for path in walk_files(folder):
                name = path.relative_to(self.root).as_posix()
                reason = why_unusable(path, name)
                label = path.parent.name if self.reading == "leaf" else folder.name
                if reason is None:
                    self.table.add(name, label, place)
                    below = path.parent.relative_to(base).as_posix()
                    self.merged[label].add(below)
                    if path.parent != folder:
                        self.nested[below] = folder.name
                else:
                    self.rejected.append((name if why_unprintable(name) is None else ascii(name), reason))
            if len(self.table) == before and _holds_runs(folder):
                del self.rejected[rejected:]
                self.runs.append(self._name(folder))
            elif len(self.table) == before:
                self._empty(folder, self.rejected[rejected:], may_be_empty)
        return SampleColumns(self.table, np.arange(first, len(self.table)))

    def nested_notes(self) -> list[str]:
        """A note if images lie in folders of class folders: what they count for, and how to get the other reading."""
        runs = [f"`{name}/` holds runs of zoo, so it is no class" for name in self.runs]
        if self.reading == "leaf":
            return runs + [
                f"folders {listed(folders)} are one class, `{label}`"
                for label, folders in sorted(self.merged.items())
                if len(folders) > 1
            ]
        if not self.nested:
            return runs
        if (splits := self._look_like_splits()) is not None:
            return [*runs, splits]
        some = next(iter(sorted(self.nested)))
        return [
            *runs,
            f"{counted(len(self.nested), 'folder lies', 'folders lie')} in class folders: photographs in `{some}` "
            f"count for class `{self.nested[some]}`. `--classes-from leaf` makes the lowest folders the classes",
        ]

    def _look_like_splits(self) -> str | None:
        """A note if every class folder has the same folders in it: one of the two levels then seems to be splits."""
        lower: dict[str, set[str]] = defaultdict(set)
        for below, label in self.nested.items():
            lower[label].add(below.split("/")[1])
        first = next(iter(lower.values()))
        if len(lower) < max(len(self.merged), 2) or any(names != first for names in lower.values()):
            return None
        text = f"each of the classes {listed(lower)} holds the same folders, {listed(first)}: "
        if all(name.lower() in SPLIT_WORDS for name in first):
            return (
                f"{text}if these are splits, they are mixed; a split is a folder above its classes, as in `train/CLASS`"
            )
        return (
            f"{text}if these are the classes, pass `--classes-from leaf`, or name the splits above them `train`, `val`"
        )

    def _empty(self, folder: Path | Member, others: Sequence[tuple[str, str]], may_be: bool) -> None:
        name = self._name(folder)
        if (reason := why_unprintable(folder.name)) is not None:
            raise ZooError(f"class folder `{name}` cannot be used: {reason}", hint="rename the folder")
        if may_be:
            self.rejected.append((f"{name}/", "holds no photographs"))
            return
        what = f"; the first other file, `{others[0][0]}`, {others[0][1]}" if others else ""
        raise ZooError(
            f"class folder `{name}` holds no photographs{what}",
            hint=f"photographs end in {' '.join(SUFFIXES)}; remove the folder if it is not a class",
        )

    def _reject_loose(self, folder: Path | Member) -> None:
        """Reject the photographs beside the class folders: they belong to no class."""
        inside: list[Any] = sorted(folder.iterdir())
        self.rejected += [
            (self._name(path), "lies outside the class folders")
            for path in inside
            if path.is_file() and is_photograph(path) and not is_clutter(path)
        ]

    def _name(self, path: Path | Member) -> str:
        root: Any = self.root
        name: str = path.relative_to(root).as_posix()
        return name if why_unprintable(name) is None else ascii(name)


def _holds_runs(folder: Path | Member) -> bool:
    """Whether a folder is one that zoo wrote, or holds such, as `runs/` does where `--data .` is trained on."""
    places = (folder, *subfolders(folder))
    return any((place / name).is_file() for place in places for name in ("run.json", "study.json"))
