"""Rows: the objects that plugins register. They are checked as they are registered, and what their functions return."""

from __future__ import annotations

import builtins
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.errors import ZooError, article

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

# Fields of any row whose text names a function, though their annotation does not say so
TARGETS = ("target", "load")


def check_row(value: Any, noun: str) -> None:
    """Check every field of a row against its annotation, and what only its kind requires.

    Raises:
        ZooError: a field has a wrong type or value; the message names it.
    """
    if isinstance(value, type):
        _check_strategy(value, noun)
        return
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        _check(getattr(value, name), hint, f"{article(noun)}'s `{name}`", target=name in TARGETS)
    options = getattr(value, "options", ())
    for option in options:
        check_row(option, f"{noun}'s option")
        if not option.name.isidentifier():
            raise ZooError(f"an option of {noun} `{value.name}` is named {option.name!r}, which no argument can be")
        if isinstance(option.default, (int, float)) and not _within(option.default, option.low, option.high):
            raise ZooError(
                f"option `{option.name}` of {noun} `{value.name}` has the default {option.default}, outside its bounds"
            )
    if len({option.name for option in options}) < len(options):
        raise ZooError(f"{noun} `{value.name}` has two options of one name")
    weights = getattr(value, "weights", ())
    tags = [one.tag for one in weights]
    if len(set(tags)) < len(tags):
        raise ZooError(f"{noun} `{value.name}` has two sets of weights with one tag: {' '.join(tags)}")
    for one in weights:
        check_row(one, f"{noun}'s weights")
        if one.top1 is not None and not 0 <= one.top1 <= 1:
            raise ZooError(f"{article(noun)}'s `top1` is a share from 0 to 1, not {one.top1}")
    suffix = getattr(value, "suffix", None)
    if suffix is not None and (not suffix.startswith(".") or suffix == "."):
        raise ZooError(f"{article(noun)}'s `suffix` begins with a dot, such as `.onnx`, not {suffix!r}")
    if noun == "callback" and not value.limit > 0:
        raise ZooError(f"a callback's `limit` is a number of seconds above 0, not {value.limit}")
    choices: dict[str, tuple[str, ...] | None] = {"preprocessing": ("graph", "outside"), "precisions": None}
    if hasattr(value, "devices"):
        from zoo.runtime import DEVICES  # not at the top: `zoo --help` checks commands, which need no runtime

        choices["devices"] = DEVICES
    for name, known in choices.items():
        found = getattr(value, name, None)
        if found is not None and (not found or (known and not set(found) <= set(known))):
            raise ZooError(
                f"{article(noun)}'s `{name}` are some of {' '.join(known or ('fp32', 'fp16', 'int8'))}, not {found}"
            )


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def check_returned(value: Any, hint: Any, target: str | Callable[..., Any], of: str) -> None:
    """Check what a function of a row returned.

    Args:
        value: What it returned.
        hint: A type, or for an object of any class a mapping from its attributes to their types.
        target: The function, as the row names it.
        of: What messages call the row, such as "exporter `onnx`".

    Raises:
        ZooError: it is something else; the message names the row and the plugin's function.
    """
    name = getattr(target, "__qualname__", type(target).__name__)
    named = target if isinstance(target, str) else f"{target.__module__}:{name}"
    hints = "the plugin must be mended; `zoo plugins` names its distribution"
    where = f"`{named}` of {of} returned"
    if not isinstance(hint, Mapping):
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if not any(_matches(value, one) for one in options):
            words = " or ".join(_words(one) for one in options)
            raise ZooError(f"{where} {_shown(value)}, not {words}", hint=hints)
        return
    for attribute, wanted in hint.items():
        try:
            found = getattr(value, attribute)
        except AttributeError:
            raise ZooError(f"{where} {_shown(value)}, which has no `{attribute}`", hint=hints) from None
        if not _matches(found, wanted):
            raise ZooError(
                f"{where} an object whose `{attribute}` is {_words(wanted)} by contract, not {_shown(found)}",
                hint=hints,
            )


def _shown(value: Any) -> str:
    """A value in a message: its text, or its type where that is long."""
    text = repr(value)
    return f"`{text}`" if len(text) <= 40 and "\n" not in text else f"a `{type(value).__name__}`"


def _check_strategy(kind: type, noun: str) -> None:
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise ZooError(f"{noun} `{getattr(kind, 'name', kind.__name__)}` does not implement `{missing[0]}`")
    for name, right in (("pretrained", bool), ("alone", str)):
        if not isinstance(getattr(kind, name), right):
            raise ZooError(f"{article(noun)}'s `{name}` is {_NAMES[right]}, not {getattr(kind, name)!r}")


class _Names(dict[str, Any]):
    """Names in annotations. Those that are imported for type checkers alone may be anything."""

    def __missing__(self, name: str) -> Any:
        return Any


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The annotation of each field of a row."""
    names = _Names({**vars(builtins), **vars(sys.modules[kind.__module__])})
    found = get_type_hints(kind, localns=names)
    return {field.name: found[field.name] for field in fields(kind)}


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "True or False", tuple: "a tuple"}


def _check(value: Any, hint: Any, where: str, *, target: bool = False) -> None:
    """Check a value against an annotation.

    Raises:
        ZooError: it does not match; `where` is what the message calls it.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    of_function = any(get_origin(one) is Callable or get_origin(one) is _CALLABLE for one in options)
    if not any(_matches(value, one) for one in options):
        known = " or ".join(dict.fromkeys(_words(one) for one in options))
        raise ZooError(f"{where} is {known}, not {value!r}")
    if isinstance(value, str) and (target or of_function) and not TARGET.fullmatch(value):
        raise ZooError(f"{where} is written `module:function`, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ZooError(f"{where} is not a finite number")


_CALLABLE = get_origin(Callable[[], None])


def _matches(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin is Literal:
        return value in parts
    if origin is _CALLABLE:
        return callable(value)
    if origin is tuple:
        inner = parts[0] if parts else Any
        return isinstance(value, tuple) and all(_matches(one, inner) for one in value)
    if origin is list:
        return isinstance(value, (list, tuple)) and all(_matches(one, parts[0]) for one in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _matches(key, parts[0]) and _matches(one, parts[1]) for key, one in value.items()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:
    """What a message calls an annotation."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return "None"
    if origin is _CALLABLE:
        return "a function"
    if origin is tuple or origin is list:
        of = f" of {_words(parts[0]).removeprefix('a ')}s" if parts and isinstance(parts[0], type) else ""
        return f"a {origin.__name__}{of}"
    if origin is Literal:
        return f"one of {' '.join(map(str, parts))}"
    if isinstance(hint, type) and is_dataclass(hint):
        return f"a `zoo.{hint.__name__}`"
    return _NAMES.get(hint, "a mapping" if origin is not None else str(getattr(hint, "__name__", hint)))
