"""Takes a distribution's packages from the tree two folders up, or from beside this file in an unpacked sdist.

The two distributions hold this file in the same words, since an unpacked sdist has to hold one of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class TreeHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the packages that `pyproject.toml` names, each with its folder in the tree, to wheel and sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = Path(self.root)
        tree = here.parents[1]
        unpacked = (here / "PKG-INFO").is_file()
        for package, folder in self.config["packages"].items():
            source = here / package if unpacked else tree / folder
            build_data["force_include"][str(source)] = package
        if not unpacked and self.target_name == "sdist":
            for file in ("LICENSE", "README.md"):
                if not (here / file).exists():
                    build_data["force_include"][str(tree / file)] = file
        if self.target_name == "wheel":
            build_data["extra_metadata"][str((here if unpacked else tree) / "LICENSE")] = "LICENSE"


class ReadmeHook(MetadataHookInterface):
    """The page of the tree is the page of a distribution that asks for it by `dynamic = ["readme"]`."""

    def update(self, metadata: dict[str, Any]) -> None:
        here = Path(self.root)
        found = (here if (here / "PKG-INFO").is_file() else here.parents[1]) / "README.md"
        metadata["readme"] = {"content-type": "text/markdown", "text": found.read_text(encoding="utf-8")}
