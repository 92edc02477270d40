"""A plugin package that is not installed: its entry points, read from the `pyproject.toml` in its folder."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.plugin import GROUP, PluginCandidate
from zoo.system.entry_points import InstalledPoint
from zoo.system.fresh_import import frameworks_after
from zoo.testing.plugin import RowCheck

PROJECT = "pyproject.toml"
START_SECONDS = 60  # a start takes less than one


def candidates_in(folder: Path) -> list[PluginCandidate]:
    """The plugins of a package, whose modules are found from now on: its folder, or `src` in it, is put on `sys.path`.

    Raises:
        UsageError: the folder holds no package with an entry point of the group `zoo.plugins`.
    """
    file = folder / PROJECT
    try:
        project = _table(tomllib.loads(file.read_text(encoding="utf-8")), "project")
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"`{folder}` has no `{PROJECT}`", hint="pass the folder of a package, or its name") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{file}` cannot be read: {error}", hint="mend the file") from error
    points = _table(_table(project, "entry-points"), GROUP)
    if not points:
        raise UsageError(
            f"`{file}` has no entry point of the group `{GROUP}`",
            hint=f'add `[project.entry-points."{GROUP}"]` with a line such as `acme = "zoo_acme"`',
        )
    for name, target in points.items():
        if not name.strip() or not isinstance(target, str) or not target.strip():
            raise UsageError(
                f"`{file}`: the entry point `{name} = {target!r}` names no module",
                hint='write a name and the text of a module, such as `acme = "zoo_acme"`',
            )
    for place in (folder / "src", folder):
        if place.is_dir() and str(place.resolve()) not in sys.path:
            sys.path.insert(0, str(place.resolve()))
    distribution, version = str(project.get("name", folder.name)), str(project.get("version", "0"))
    return [
        PluginCandidate(name, distribution, version, InstalledPoint(name, target, GROUP, distribution, version))
        for name, target in points.items()
    ]


def beside(mine: Sequence[PluginCandidate], installed: Iterable[PluginCandidate]) -> list[PluginCandidate]:
    """The installed plugins beside those of a folder, without the installed copy of the same package.

    Raises:
        UsageError: a plugin of another package has a name of these.
    """
    packages = {_normal(candidate.distribution) for candidate in mine}
    rest = [candidate for candidate in installed if _normal(candidate.distribution) not in packages]
    taken = {candidate.name: candidate.distribution for candidate in rest}
    for candidate in mine:
        if candidate.name in taken:
            raise UsageError(
                f"the name `{candidate.name}` belongs to a plugin of `{taken[candidate.name]}`, which is installed",
                hint="give the entry point another name, or uninstall the other package",
            )
    return rest


def start_failure(candidate: PluginCandidate) -> RowCheck | None:
    """Load a plugin in a process of its own; a violation where that process ends early or does not end.

    It must be known before the plugin is loaded in this process, which would end or wait with it.
    """
    try:
        frameworks_after(
            "zoo.testing.plugin_start:start",
            candidate.name,
            candidate.entry_point.value,
            call=True,
            seconds=START_SECONDS,
        )
    except ZooError as error:
        return RowCheck(
            kind="plugin",
            name=candidate.name,
            status="violated",
            reason=f"every `zoo` command would end or wait with it as it is loaded: {error.message}",
            hint="a module with hooks, and its hooks, do nothing but register rows",
        )
    return None


def _normal(distribution: str) -> str:
    """A distribution's name, however it is spelt."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _table(of: dict[str, Any], key: str) -> dict[str, Any]:
    """The table of a key; empty where there is none."""
    found = of.get(key)
    return found if isinstance(found, dict) else {}
