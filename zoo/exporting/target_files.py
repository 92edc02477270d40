"""Files of an export: written in folders of their own beside the target, and renamed into place once accepted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zoo.exporter import Exporter


@contextmanager
def files_beside(target: Path, precisions: Sequence[str]) -> Iterator[dict[str, Path]]:
    """A temporary file for each precision, with the target's name, in a folder of its own beside the target.

    The folders are on the target's file system, so that a file can be renamed into place. An exporter may write more
    files there. All folders are deleted at the end.

    Raises:
        OSError: a folder cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}.", dir=target.parent))
    try:
        files = {name: folder / name / target.name for name in precisions}
        for file in files.values():
            file.parent.mkdir()
        yield files
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(file: Path) -> int:
    """Bytes of a file and of everything that was written beside it."""
    return sum(one.stat().st_size for one in file.parent.rglob("*") if one.is_file())


def companions(target: Path, exporter: Exporter) -> list[Path]:
    """Paths of the files that may belong to a file of this format and lie beside it."""
    return [target.with_name(name.format(name=target.name, stem=target.stem)) for name in exporter.beside]


def move_into_place(file: Path, target: Path, exporter: Exporter) -> None:
    """Move a file into place, after the files written beside it; delete those that belonged to an older file."""
    written = {other.name for other in file.parent.iterdir()}
    for companion in companions(target, exporter):
        if companion.name in written:
            file.with_name(companion.name).replace(companion)
        else:
            companion.unlink(missing_ok=True)
    if exporter.folder and target.is_dir():  # a folder replaces only an empty one
        shutil.rmtree(target)
    file.replace(target)
