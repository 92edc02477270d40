"""Shared read-only folders: made once for all processes of a session, and checked for changes at its end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from zoo.plugin import KINDS, Plugins


def made_once(base: Path, name: str, make: Callable[[Path], object]) -> Iterator[Path]:
    """A fixture's body: yields the folder `name`, which `make` has filled, and fails if a test changed it.

    `base` is this process's `tmp_path_factory.getbasetemp()`. The processes of pytest-xdist share the folder above
    theirs: the first to ask makes the folder under a lock, and the others wait for it. Whoever wants to change a file
    copies the folder with `shutil.copytree`.
    """
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole = root / name, root / f"{name}.sha256"
    with FileLock(root / f"{name}.lock"):
        if not whole.exists():  # a maker that failed left none, and its folder makes the next one fail as well
            folder.mkdir()
            make(folder)
            whole.write_text(digest(folder))
    yield folder
    assert digest(folder) == whole.read_text(), f"a test changed `{folder}`, which others read: it must take a copy"


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0".encode())
        if path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def unchanged(plugins: Plugins) -> Iterator[Plugins]:
    """A fixture's body: yields the plugins, loaded, and fails if a test changed them."""
    plugins.load_everything()
    before = _told(plugins)
    yield plugins
    assert _told(plugins) == before, "a test changed the plugins, which others use: it must make its own"


def _told(plugins: Plugins) -> tuple[set[str], list[object]]:
    """What is registered, and the attributes, in case one was put in the place of a method."""
    catalogues = [getattr(plugins, kind) for kind in KINDS]
    return set(vars(plugins)), [(set(vars(catalogue)), list(catalogue)) for catalogue in catalogues]
