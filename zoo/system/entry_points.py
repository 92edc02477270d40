"""Installed entry points of a group, remembered in the cache folder.

Reading the metadata of some 200 distributions takes longer than a short command. What was found is used again while the
folders of `sys.path` hold the same distributions.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import zlib
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from zoo.storage.cache import memoise

# `module` or `module:attribute`; what else an entry point may be is left to `importlib.metadata`
_PLAIN = re.compile(r"[\w.]+(:\w+)?")


class InstalledPoint(NamedTuple):
    """An entry point, and the distribution that installs it.

    Attributes:
        name: Its name.
        value: What it names, such as `module` or `module:attribute`.
        group: Its group.
        distribution: Name of the distribution.
        version: Version of the distribution.
    """

    name: str
    value: str
    group: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import what it names, and return it; any error of the import is passed on."""
        if _PLAIN.fullmatch(self.value) is None:
            from importlib.metadata import EntryPoint

            point = EntryPoint(self.name, self.value, self.group)
            if point.pattern.match(self.value) is None:
                raise ImportError(f"the entry point `{self.name} = {self.value!r}` names no module")
            return point.load()
        module, _, attribute = self.value.partition(":")
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found


def installed_points(group: str) -> list[InstalledPoint]:
    """Every installed entry point of a group, in the order of `sys.path`."""
    key = _distributions_key()
    if key is None:
        return _read_points(group)
    return memoise(
        group,
        key,
        lambda: _read_points(group),
        encode=lambda points: [list(point) for point in points],
        decode=_decode_points,
    )


def _read_points(group: str) -> list[InstalledPoint]:
    import importlib.metadata  # not at the top: it takes as long as click

    found = []
    for distribution in importlib.metadata.distributions():
        for point in distribution.entry_points:
            if point.group == group:
                name = distribution.metadata["Name"] or "unknown"
                found.append(InstalledPoint(point.name, point.value, group, name, distribution.version))
    return found


def _decode_points(kept: Any) -> list[InstalledPoint]:
    points = [InstalledPoint(*words) for words in kept]
    if not all(isinstance(word, str) for point in points for word in point):
        raise ValueError("not a list of entry points")
    return points


def _distributions_key() -> str | None:
    """What tells whether the same distributions are installed; None where not all of them are folders on `sys.path`."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return None
    found = [sys.version]
    for place in sys.path:
        try:
            with os.scandir(place or ".") as entries:
                # as `importlib.metadata` tells them; `EGG-INFO` is inside a folder of the path that is an egg
                kept = [one for one in entries if one.name.lower().endswith((".dist-info", "egg-info"))]
        except FileNotFoundError:  # such as the zip file of the standard library
            continue
        except OSError:  # a zip file of modules, or a folder that may not be read
            return None
        for entry in kept:
            try:
                state = os.stat(f"{entry.path}/entry_points.txt")  # noqa: PTH116
            except OSError:  # without entry points, or one file instead of a folder
                continue
            found.append(f"{entry.path} {state.st_mtime_ns} {state.st_size}")
    text = "\n".join(found)
    return f"{len(text)} {zlib.crc32(os.fsencode(text)):08x}"
