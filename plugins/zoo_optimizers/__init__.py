"""The built-in optimizers: those of torch. timm's are in `zoo_timm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.optimizer import Optimizer


@hookimpl
def register_optimizers(register: Register[Optimizer]) -> None:
    from zoo_optimizers.catalogue import OPTIMIZERS  # not at the top: most commands need no optimizer

    for optimizer in OPTIMIZERS:
        register(optimizer)
