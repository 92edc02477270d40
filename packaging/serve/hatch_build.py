"""Takes this distribution's packages from the tree two folders up, or from beside this file in an unpacked sdist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Import package -> its folder in the tree. Each package belongs to one distribution as a whole: see
# docs/decisions/serve-distribution.md
PACKAGES = {
    "zoo": "zoo",
    "zoo_cli": "cli/zoo_cli",
    "zoo_onnx": "exporters/zoo_onnx",
    "zoo_runtimes": "plugins/zoo_runtimes",
}


class TreeHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the packages to wheel and sdist. An editable install points at the tree by `dev-mode-dirs` instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = Path(self.root)
        unpacked = (here / "zoo").is_dir()
        if version == "editable":
            return
        for package, folder in PACKAGES.items():
            source = here / package if unpacked else here.parents[1] / folder
            build_data["force_include"][str(source)] = package
        if not unpacked and self.target_name == "sdist":
            build_data["force_include"][str(here.parents[1] / "LICENSE")] = "LICENSE"
