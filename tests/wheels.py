"""The wheels of this tree: built, installed into a folder without network and dependencies, and run from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is released: together they hold what the tree holds
WHOLE = ROOT / "packaging" / "backbone-zoo"
SERVE = ROOT / "packaging" / "backbone-zoo-serve"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def build_wheel(project: Path, target: Path) -> Path:
    """The wheel of a project, alone in the folder `target`."""
    subprocess.run(
        [*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", target, project], check=True
    )
    (found,) = target.glob("*.whl")
    return found


def build_sdist(project: Path, target: Path) -> Path:
    """The source distribution of a project, alone in the folder `target`."""
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", target]
    subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (found,) = target.glob("*.tar.gz")
    return found


def install(target: Path, *wheels: Path) -> Path:
    """Installs wheels, and nothing that they require, into the empty folder `target`."""
    subprocess.run([*PIP, "install", "--no-index", "--no-deps", "--target", target, *wheels], check=True)
    return target


def third_parties(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """A folder with links to all that is installed here but zoo, whose checkout may be on the path, and `without`."""
    folder.mkdir()
    for place in [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]:
        for entry in place.iterdir():
            name = entry.name.lower()
            if name.startswith(("backbone_zoo-", "_backbone_zoo")) or name in without or (folder / entry.name).exists():
                continue
            (folder / entry.name).symlink_to(entry)
    return folder


def run_installed(path: tuple[Path, ...], cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python where `path` is all that can be imported beside the standard library.

    `-S` leaves out this environment, and with it the `.pth` files of an editable install.
    """
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
