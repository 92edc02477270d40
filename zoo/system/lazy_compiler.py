"""Start-up: torch without its compiler, which libraries import in passing and which takes a second.

torchvision 0.29 (`ops/roi_align.py`) asks it one question when a function is called, timm 1.0 (`models/naflexvit.py`)
and torch's optimisers mark functions for it, and a step of an optimiser tells it where to break a graph. All that is
answered here, until somebody does compile.
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

COMPILER, QUESTIONS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within it, stand-ins answer for torch's compiler, unless it has been imported already."""
    if COMPILER in sys.modules:
        yield
        return
    stand_ins = (
        _StandIn(COMPILER, {"graph_break": lambda *args, **kwargs: None, "disable": _disable}),
        _StandIn(QUESTIONS, {"is_compile_supported": lambda *args: _real(QUESTIONS).is_compile_supported(*args)}),
    )
    sys.modules.update({stand_in.__name__: stand_in for stand_in in stand_ins})
    try:
        yield
    finally:
        _remove()


class _StandIn(ModuleType):
    """In the place of a module that has not been imported; asked for more than its answers, it is imported."""

    def __init__(self, name: str, answers: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        self.__dict__.update(answers)

    def __getattr__(self, name: str) -> Any:
        package = name == "__path__" and self.__name__ == COMPILER  # somebody imports another module of it
        if name.startswith("__") and not package:  # what looks through all modules is not answered
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    _remove()
    return importlib.import_module(name)


def _remove() -> None:
    for name in (COMPILER, QUESTIONS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(fn: Any = None, recursive: bool = True, **settings: Any) -> Any:
    """`torch._dynamo.disable` that asks the compiler when a marked function is called, and not at all without one."""
    if fn is None:
        return lambda fn: _disable(fn, recursive, **settings)
    if not inspect.isroutine(fn):
        return _real(COMPILER).disable(fn, recursive, **settings)

    @functools.wraps(fn)
    def marked(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get(COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):
            return fn(*args, **kwargs)
        return compiler.disable(fn, recursive, **settings)(*args, **kwargs)

    return marked
