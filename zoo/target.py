"""`"module:attribute"` strings, so that a catalogue names its builders without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def load_target(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function behind `"module:attribute"`; a callable is returned as it is."""
    if callable(target):
        return target
    module, _, attribute = target.partition(":")
    assert attribute, f"a target is written `module:attribute`, not `{target}`"
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
