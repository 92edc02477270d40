"""A plugin package that is not installed: its entry points, read from the `pyproject.toml` in its folder."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from zoo.errors import UsageError
from zoo.plugin import GROUP, PluginCandidate
from zoo.system.entry_points import InstalledPoint

PROJECT = "pyproject.toml"


def candidates_in(folder: Path) -> list[PluginCandidate]:
    """The plugins of a package, whose modules are found from now on: its folder, or `src` in it, is put on `sys.path`.

    Raises:
        UsageError: the folder holds no package with an entry point of the group `zoo.plugins`.
    """
    file = folder / PROJECT
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        raise UsageError(f"`{folder}` has no `{PROJECT}`", hint="pass the folder of a package, or its name") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{file}` cannot be read: {error}", hint="mend the file") from error
    points = project.get("entry-points", {}).get(GROUP, {})
    if not isinstance(points, dict) or not points:
        raise UsageError(
            f"`{file}` has no entry point of the group `{GROUP}`",
            hint=f'add `[project.entry-points."{GROUP}"]` with a line such as `acme = "zoo_acme"`',
        )
    for place in (folder / "src", folder):
        if place.is_dir() and str(place.resolve()) not in sys.path:
            sys.path.insert(0, str(place.resolve()))
    distribution, version = str(project.get("name", folder.name)), str(project.get("version", "0"))
    return [
        PluginCandidate(name, distribution, version, InstalledPoint(name, str(target), GROUP, distribution, version))
        for name, target in points.items()
    ]
