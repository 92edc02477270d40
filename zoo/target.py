"""`"module:attribute"` strings, so that a catalogue names its builders without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def load_target(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function behind `"module:attribute"`; a callable is returned as it is."""
    if callable(target):
        return target
    module, _, attribute = target.partition(":")
    assert attribute, f"a target is written `module:attribute`, not `{target}`"
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def lazy_attributes(module: str, targets: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports `targets`, attribute to `"module:attribute"`, when first used.

    The public modules pass on what deeper rooms hold without importing them.
    """

    def attribute(name: str) -> Any:
        if name in targets:
            return load_target(targets[name])
        raise AttributeError(f"module `{module}` has no attribute `{name}`")

    return attribute
