"""Arguments of the functions that a Python caller meets: one value where a list is meant, and objects of a kind."""

from __future__ import annotations

import os
from typing import Any

from zoo.errors import UsageError


def as_list(values: Any, *single: type) -> list[Any]:
    """A list of what the caller passed: a text, a path or an object of a `single` type counts as a list of one."""
    if isinstance(values, (str, os.PathLike, *single)):
        return [values]
    return list(values)


def check_kind(value: object, kind: type, function: str, example: str) -> None:
    """Check the first argument of a function.

    Raises:
        UsageError: it is not of that kind.
    """
    if not isinstance(value, kind):
        raise UsageError(f"`{function}` takes a `zoo.{kind.__name__}`, not {_told(value)}", hint=f"write `{example}`")


def _told(value: object) -> str:
    text = repr(value)
    return f"`{text}`" if len(text) <= 60 else f"a `{type(value).__name__}`"
