"""`"module:attribute"` strings, with which a catalogue names functions without importing their modules (or torch)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import ZooError


def load_target(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that `"module:attribute"` names, imported; a callable is returned unchanged.

    Raises:
        ZooError: the module cannot be imported, or it has no such attribute.
    """
    if callable(target):
        return target
    try:
        return _load(target)
    except (ImportError, AttributeError) as error:
        raise ZooError(
            f"`{target}` cannot be loaded: {error}", hint="`zoo plugins` lists what is installed; mend the plugin"
        ) from error


def _load(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    assert attribute, f"a target is written `module:attribute`, not `{target}`"
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def lazy_attributes(module: str, targets: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports attributes of other modules on first use.

    With it, a public module offers functions of inner packages without importing those packages.

    Args:
        module: Name of the module, for the message of an `AttributeError`.
        targets: `"module:attribute"` by the name of each attribute.
    """

    return functools.partial(_attribute, module, targets)


def _attribute(module: str, targets: Mapping[str, str], name: str) -> Any:
    if name in targets:
        return _load(targets[name])
    raise AttributeError(f"module `{module}` has no attribute `{name}`")
