"""Plugins as they are installed, with one row more, such as a broken one that a law must find."""

from __future__ import annotations

from typing import Any

from zoo.catalogue import Catalogue, Entry
from zoo.plugin import Plugins

PROVIDER = "acme"


def with_row(plural: str, row: Any) -> Plugins:
    """What is installed, and a row of another plugin, behind all others of its kind."""
    plugins = Plugins()
    known: Catalogue[Any] = getattr(plugins, plural)
    setattr(plugins, plural, Catalogue(known.noun, plural, [*known.entries, Entry(PROVIDER, row)]))
    return plugins
