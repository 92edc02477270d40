"""Augmentations: random views of training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoo.option import Option
from zoo.target import lazy_attributes


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """An augmentation that a plugin registers.

    Attributes:
        name: What `--augment` takes.
        summary: One line for `zoo list augmentations`.
        target: `(canvas, size, fill, **options) -> view`, as a callable or as `"module:function"`. The canvas is `(3,
            H, W)` uint8, the view `(3, h, w)` uint8 for a `size` of `(h, w)`. `fill` is the colour around an image that
            was padded, or None. Random numbers are drawn on the CPU from the global generator of torch, numpy or
            Python, which are seeded for each image and view.
        options: Options, which the function receives by name.
        random: Whether views of an image differ.
        requires: Top-level modules that must be installed; looked for before training begins. Their versions are part
            of what identifies stored features.
        install: Command that installs them, such as `pip install 'backbone-zoo[albumentations]'`.
    """

    name: str
    summary: str
    target: str | Callable[..., Any] = field(repr=False)
    options: tuple[Option, ...] = ()
    random: bool = True
    requires: tuple[str, ...] = ()
    install: str = ""


__getattr__ = lazy_attributes(__name__, {"without_compiler": "zoo.system.lazy_compiler:without_compiler"})
