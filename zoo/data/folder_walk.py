"""Folder walk: the one list of the files below a folder, for training, evaluation and prediction."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from zoo.data.image_formats import FOREIGN_SUFFIXES, SUFFIXES, why_suffix_not_read
from zoo.errors import ZooError

# What systems and programs create in folders, in lower case. Hidden files and folders are skipped as well
CLUTTER_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")
CLUTTER_FOLDERS = (
    "@eadir",  # Synology: thumbnails of the photographs beside it
    "#recycle",
    "#snapshot",
    "@recycle",  # QNAP
    "@recently-snapshot",
    "__macosx",  # an archive packed by macOS
    "network trash folder",
    "temporary items",
    "$recycle.bin",  # Windows
    "recycler",
    "system volume information",
    "lost+found",  # Linux
    "__pycache__",
)


class Place(Protocol):
    """What reading class folders needs of a `Path`; a member of an archive has it too, and `walk` for its files."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    def is_dir(self) -> bool: ...

    def is_file(self) -> bool: ...

    def is_symlink(self) -> bool: ...


class Tree(Place, Protocol):
    """A folder of an archive or store."""

    def walk(self) -> Iterator[Any]:
        """Yield every file below, without clutter, in the order of `walk_order`."""
        ...


def is_clutter(path: Place) -> bool:
    """Whether a file or folder is hidden, or one that a system creates."""
    name = path.name.lower()
    return name.startswith(".") or name in CLUTTER_FILES or name in CLUTTER_FOLDERS


def subfolders(folder: Any) -> list[Any]:
    """The folders in a folder, sorted, without clutter.

    Raises:
        ZooError: the folder cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not is_clutter(child))
    except OSError as error:
        raise _unreadable(error) from error


def walk_files(folder: Path | Tree) -> Iterator[Any]:
    """Yield every file at any depth, without clutter; links are followed once, and not to folders above `folder`.

    Raises:
        ZooError: a folder cannot be read.
    """

    if not isinstance(folder, Path):
        yield from folder.walk()
        return

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    start = Path(os.path.realpath(folder))
    seen = {os.fspath(above) for above in start.parents}  # there, files of other classes would be found
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a loop of links
            folders.clear()
            continue
        if not os.access(place, os.X_OK):  # its names can be listed, but no file opened
            refuse(PermissionError(errno.EACCES, os.strerror(errno.EACCES), place))
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_clutter(Path(name)))
        yield from (Path(place, name) for name in sorted(files) if not is_clutter(Path(name)))


def walk_order(name: str) -> tuple[tuple[int, str], ...]:
    """What paths below a data folder are sorted by, where they do not come from `walk_files`, to come in its order.

    In each folder, the files come first, then what lies in its folders. So the same images come in the same order from
    a folder, an archive and a table, and training on them gives the same weights.
    """
    *folders, file = name.split("/")
    return (*((1, folder) for folder in folders), (0, file))


def walk_key(id: bytes) -> bytes:
    """What sorts paths as `walk_order` does; both are in UTF-8, and names have no control characters."""
    *folders, file = id.split(b"/")
    return b"".join(b"\2" + folder for folder in folders) + b"\1" + file


def is_photograph(path: Place) -> bool:
    """Whether a file is a photograph by its suffix, also of a format that cannot be read."""
    return path.suffix.lower() in SUFFIXES or path.suffix.lower() in FOREIGN_SUFFIXES


def is_readable(path: Path) -> bool:
    """Whether opening a file ends, unlike that of a pipe; a broken link counts, so that it is reported."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def why_unusable(path: Place, name: str) -> str | None:
    """Why a file cannot be a labelled image, by its kind and name; None: it can.

    Args:
        path: The file.
        name: Its path below the data folder.
    """
    if (reason := why_unprintable(name)) is not None:
        return reason
    if not path.is_file():
        return "is a broken link" if path.is_symlink() else "is not a regular file"
    suffix = path.suffix.lower()
    if (reason := why_suffix_not_read(suffix)) is not None:
        return reason
    if suffix in SUFFIXES:
        return None
    return f"its suffix `{path.suffix}` is not that of an image" if suffix else "has no suffix"


def why_unprintable(name: str) -> str | None:
    """Why a name cannot be written to JSON or to a terminal; None: it can. Spaces and marks of any script can."""
    kinds = {unicodedata.category(letter) for letter in name}
    if "Cs" in kinds:
        return "its name is not valid UTF-8"
    return "its name has control characters" if "Cc" in kinds else None


def _unreadable(error: OSError) -> ZooError:
    reason = (error.strerror or str(error)).lower()
    return ZooError(f"`{error.filename}` cannot be read: {reason}", hint="check the permissions of the folder")
