"""Image files that tables, lists and exports name: where their paths begin, and what is wrong with one."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo import ZooError
from zoo.data.data_argument import is_url, without_secret
from zoo.data.image_formats import SUFFIXES
from zoo.data.labelled_rows import LabelledRows, is_missing
from zoo.dataset import FileSource, ImageSource
from zoo.errors import counted
from zoo_datasets.reachability import Reachability
from zoo_datasets.remote import remote_source

PARENTS = 3  # folders above that of the table, in which paths may begin


@dataclass
class ImageFiles:
    """Finds the images that a file names.

    Attributes:
        root: The folder that paths begin at, or the URL of one.
        suffix: What is added to each path; empty: nothing.
    """

    root: str
    suffix: str = ""
    _missing: list[str] = field(default_factory=list)
    _found: int = 0
    _reach: Reachability = field(default_factory=Reachability)

    def find(self, cell: str, rows: LabelledRows, table: str, line: int) -> tuple[str, ImageSource] | None:
        """The id and the source of the image that a cell names; None: there is none, and the row is rejected."""
        where = f", in line {line} of `{table}`" if line else f", in `{table}`"
        if is_missing(cell):
            rows.rejected.append((f"{Path(table).name}:{line}", f"has no path{where}"))
            return None
        if "\0" in cell:
            rows.rejected.append((ascii(cell), f"is no path{where}"))
            return None
        if self.suffix and not cell.lower().endswith(self.suffix.lower()):
            cell += self.suffix
        if is_url(cell) or is_url(self.root):
            self._found += 1
            if is_url(cell):
                return without_secret(cell), remote_source(cell, self._reach)
            below = posixpath.normpath(cell.replace("\\", "/").lstrip("/"))
            # in an address of the web, these letters would end the path
            path = re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", below) if self.root[:4] == "http" else below
            return below, remote_source(f"{self.root.rstrip('/')}/{path}", self._reach)
        path = self._path(cell)
        if "\\" in cell and not os.path.exists(path):  # noqa: PTH110 - a string is several times faster, for each row
            path = self._path(cell.replace("\\", "/"))
        if not os.path.isfile(path):  # noqa: PTH113
            reason = "is a folder" if os.path.isdir(path) else "does not exist"  # noqa: PTH112
            rows.rejected.append((cell, f"{reason}{where}"))
            self._missing.append(path)
            return None
        self._found += 1
        return self._id(path), FileSource(Path(path))

    def check_some(self, table: str) -> None:
        """Check that some of the images exist.

        Raises:
            ZooError: none does.
        """
        if self._missing and not self._found:
            first = self._missing[0][:200]
            raise ZooError(
                f"`{table}` names {counted(len(self._missing), 'image')} and none exists, such as `{first}`",
                hint="`root=` is the folder that paths begin at, `suffix=.jpg` is added to each",
            )

    def _path(self, cell: str) -> str:
        return os.path.normpath(os.path.join(self.root, os.path.expanduser(cell)))  # noqa: PTH111, PTH118

    def _id(self, path: str) -> str:
        """The path below the root, with forward slashes; the whole path of a file elsewhere."""
        below = os.path.relpath(path, self.root)
        return (path if below.startswith("..") else below).replace(os.sep, "/")


def image_files(
    table: str, cells: Sequence[str], root: str | None, suffix: str | None, rows: LabelledRows
) -> ImageFiles:
    """Where the paths of a table begin, and what suffix they lack.

    Paths begin at `root`. Without it, at the table's folder; if the first image is not there, at the only folder in it,
    or else the nearest folder above it, where that image is. A suffix is added if cells have none of an image's, and
    one makes the first image's path that of a file. A note says what was found out.

    Args:
        table: Path or URL of the table.
        cells: Some of the paths in it.
        root: What the option `root` says.
        suffix: What the option `suffix` says.
        rows: Receives the note.

    Raises:
        ZooError: there is no folder `root`.
    """
    if root is not None and not is_url(root) and not Path(root).expanduser().is_dir():
        raise ZooError(f"there is no folder `{root}`, which `root` names")
    if suffix and not suffix.startswith((".", "_", "-")):
        suffix = f".{suffix}"
    beside = table.rpartition("/")[0] if is_url(table) else str(Path(table).resolve().parent)
    given = str(Path(root).expanduser().resolve()) if root is not None and not is_url(root) else root
    local = [cell for cell in cells if not is_url(cell) and not is_missing(cell)]
    if not local or is_url(given or beside):
        return ImageFiles(given or beside, suffix or "")
    bare = suffix is None and not any(Path(cell).suffix.lower() in SUFFIXES for cell in local)
    suffixes = [suffix or "", *(SUFFIXES if bare else ())]
    for folders in ((given,),) if given is not None else _places(Path(beside)):
        found = [
            (str(folder), ending)
            for folder in folders
            for ending in suffixes
            if any(os.path.isfile(os.path.join(folder, cell.replace("\\", "/") + ending)) for cell in local)  # noqa: PTH113, PTH118
        ]
        if len(found) == 1:
            place, ending = found[0]
            if given is None and place != beside:
                rows.notes.append(f"paths of `{table}` begin at `{place}`; `root=` changes it")
            if ending and suffix is None:
                rows.notes.append(f"paths of `{table}` end in `{ending}`; `suffix=` changes it")
            return ImageFiles(place, ending)
        if len(found) > 1:
            several = " and ".join(f"`{os.path.join(place, local[0] + ending)}`" for place, ending in found[:2])  # noqa: PTH118
            raise ZooError(f"`{local[0]}` of `{table}` may be {several}", hint="say which by `root=` and `suffix=`")
    return ImageFiles(given or beside, suffix or "")


def _places(folder: Path) -> list[tuple[Path | str, ...]]:
    """Folders in which the paths of a table may begin, the likeliest first."""
    try:
        inside = tuple(child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith("."))
    except OSError:
        inside = ()
    return [(folder,), inside, *((parent,) for parent in list(folder.parents)[:PARENTS])]
