"""The built-in callbacks: trackers of experiments, each behind an extra. `tensorboard.py` and others do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.callback import Callback


@hookimpl
def register_callbacks(register: Register[Callback]) -> None:
    from zoo_trackers.catalogue import ROWS  # not at the top: most commands need no callback

    for row in ROWS:
        register(row)
