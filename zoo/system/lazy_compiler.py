"""Importing torch's compiler only when something is compiled, since the import takes a second.

Libraries import the compiler without compiling anything. torchvision 0.29 (`ops/roi_align.py`) asks it whether
compilation is supported, timm 1.0 (`models/naflexvit.py`) and torch's optimisers mark functions for it, and an
optimiser's step marks a graph break. Stand-in modules answer these calls until something is compiled.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER, COMPILER_UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """A context in which stand-ins take the place of torch's compiler, unless it has been imported already."""
    if COMPILER in sys.modules:
        yield
        return
    stand_ins = (
        _StandIn(COMPILER, {"graph_break": lambda *args, **kwargs: None, "disable": _disable}),
        _StandIn(
            COMPILER_UTILS,
            {"is_compile_supported": lambda *args: _import_real(COMPILER_UTILS).is_compile_supported(*args)},
        ),
    )
    sys.modules.update({stand_in.__name__: stand_in for stand_in in stand_ins})
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module with a few functions of a module that is not imported. Any other attribute imports the real module."""

    def __init__(self, name: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        submodule = name == "__path__" and self.__name__ == COMPILER  # a module of the package is being imported
        if name.startswith("__") and not submodule:  # code that inspects all modules must not import the real one
            raise AttributeError(name)
        return getattr(_import_real(self.__name__), name)


def _import_real(name: str) -> ModuleType:
    _remove_stand_ins()
    return importlib.import_module(name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, COMPILER_UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(fn: Any = None, recursive: bool = True, **settings: Any) -> Any:
    """`torch._dynamo.disable` without the compiler: a marked function uses the compiler only if it is imported."""
    if fn is None:
        return lambda fn: _disable(fn, recursive, **settings)
    if not inspect.isroutine(fn):
        return _import_real(COMPILER).disable(fn, recursive, **settings)

    @functools.wraps(fn)
    def marked(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get(COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):
            return fn(*args, **kwargs)
        return compiler.disable(fn, recursive, **settings)(*args, **kwargs)

    return marked
