"""The built-in augmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.augmentation import Augmentation


@hookimpl
def register_augmentations(register: Register[Augmentation]) -> None:
    from zoo_augmentations.catalogue import AUGMENTATIONS  # not at the top: most commands need no augmentation

    for augmentation in AUGMENTATIONS:
        register(augmentation)
