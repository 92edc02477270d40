"""All networks of timm, as backbones, and its optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.backbone import Backbone
    from zoo.optimizer import Optimizer


@hookimpl
def register_backbones(register: Register[Backbone]) -> None:
    from zoo_timm.catalogue import catalogue_rows  # not at the top: most commands need no backbone

    for row in catalogue_rows():
        register(row)


@hookimpl
def register_optimizers(register: Register[Optimizer]) -> None:
    from zoo_timm.optimizer_rows import OPTIMIZERS  # not at the top: most commands need no optimizer

    for optimizer in OPTIMIZERS:
        register(optimizer)
