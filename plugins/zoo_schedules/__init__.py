"""The built-in learning-rate schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.schedule import Schedule


@hookimpl
def register_schedules(register: Register[Schedule]) -> None:
    from zoo_schedules.catalogue import SCHEDULES  # not at the top: most commands need no schedule

    for schedule in SCHEDULES:
        register(schedule)
