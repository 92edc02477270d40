"""What every start of `zoo` does with a plugin, done in a process of its own. Imports no torch."""

from __future__ import annotations

import warnings

from zoo.errors import PluginWarning
from zoo.plugin import PluginCandidate, Plugins
from zoo.system.entry_points import InstalledPoint


def start(name: str, target: str) -> None:
    """Import a plugin's module and call its hooks; a failure is silent."""
    warnings.simplefilter("ignore", PluginWarning)
    point = InstalledPoint(name, target, "zoo.plugins", name, "")
    Plugins([PluginCandidate(name, name, "", point)], environ={}).load_everything()
