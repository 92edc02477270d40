"""Augmentations of Albumentations, behind an extra. Imports no torch; `views.py` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.augmentation import Augmentation


@hookimpl
def register_augmentations(register: Register[Augmentation]) -> None:
    from zoo_albumentations.catalogue import ROWS  # not at the top: most commands need no augmentation

    for row in ROWS:
        register(row)
