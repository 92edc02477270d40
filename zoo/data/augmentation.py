"""Augmentation: random views of training images. Each view has its own seed, made from the image and the view's number.

So a view does not depend on the batch, the strategy, the order of images, or whether training was resumed.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from zoo.config.choice import Choice
from zoo.errors import first_line
from zoo.preprocess import Colour, ImageSize, height_width
from zoo.storage.cache import source_key
from zoo.system.lazy_compiler import without_compiler
from zoo.target import load_target

View = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Drawing:
    """How views are drawn.

    Attributes:
        text: Qualified name of the augmentation, with its options.
        code: Digest of its source, and the versions of a plugin and of what it requires.
        function: `(canvas, size, fill) -> view`.
        random: Whether views of an image differ.
        foreign: Whether it is a plugin's, which may draw from the generators of numpy and Python, too.
    """

    text: str
    code: str
    function: Callable[[torch.Tensor, tuple[int, int], Colour | None], torch.Tensor]
    random: bool = True
    foreign: bool = False

    @property
    def key(self) -> dict[str, str]:
        """JSON values that identify it among stored features."""
        return {"augment": self.text, "code": self.code}


class BadView(Exception):
    """An augmentation fails, or gives something other than a view.

    Attributes:
        place: Position of the image among those that were asked for.
    """

    def __init__(self, what: str, place: int) -> None:
        super().__init__(what)
        self.place = place


def drawing_of(choice: Choice) -> Drawing:
    """How the views of an augmentation are drawn.

    Raises:
        ZooError: its function cannot be imported, or takes other arguments.
    """
    function = choice.function(3)
    row = choice.entry.value
    module = inspect.getmodule(load_target(row.target))
    file = getattr(module, "__file__", None)
    code = "" if file is None else source_key(*_sources(Path(file), getattr(module, "__package__", "") or ""))
    return Drawing(
        text=str(choice),
        code=" ".join(filter(None, (choice.distribution, code, *_versions(row.requires)))),
        function=function,
        random=row.random,
        foreign=choice.distribution is not None,
    )


def _versions(modules: Sequence[str]) -> list[str]:
    """Versions of imported modules."""
    return [f"{name} {getattr(sys.modules.get(name), '__version__', '')}".strip() for name in modules]


def _sources(file: Path, package: str) -> list[Path]:
    """The file of a module, or all Python files of the package that it is in."""
    return sorted(file.parent.glob("*.py")) if package and "." not in package else [file]


def centre_crop(canvas: torch.Tensor, size: tuple[int, int], fill: Colour | None) -> torch.Tensor:
    """The view without augmentation."""
    with without_compiler():
        from torchvision.transforms.v2 import functional

    cut: torch.Tensor = functional.center_crop(canvas, list(size))
    return cut


# Every view is the centre crop: the augmentation `none`
PLAIN = Drawing("augmentations/none", source_key(Path(__file__)), centre_crop, random=False)


def make_view(drawing: Drawing, size: ImageSize, fill: Colour | None = None) -> View:
    """The transform of an augmentation: it maps a canvas `(3, H, W)` uint8 to a view `(3, h, w)` uint8.

    Args:
        drawing: How views are drawn.
        size: Of the view, `(h, w)`.
        fill: Of images that are padded: a turned or sheared view has this colour in its corners, as around the image.
            Random crops are cut from the padded canvas. None: black corners.
    """
    wanted = height_width(size)

    def view(canvas: torch.Tensor) -> torch.Tensor:
        if drawing.foreign:
            seed = torch.initial_seed()
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)
        found = drawing.function(canvas, wanted, fill)
        if not isinstance(found, torch.Tensor) or found.dtype != torch.uint8 or found.shape != (3, *wanted):
            told = f"a `{type(found).__name__}`"
            if isinstance(found, torch.Tensor):
                told = f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}"
            raise _WrongView(f"gives {told}, not {(3, *wanted)} uint8,")
        return found

    return view


class _WrongView(Exception):
    pass


def draw_views(canvases: torch.Tensor, asked: Sequence[tuple[int, int]], make: View, seed: int) -> torch.Tensor:
    """One view of each image.

    Args:
        canvases: `(N, 3, H, W)` uint8.
        asked: For each image its key (see `image_key`) and the number of the view.
        make: The transform of the policy (see `make_view`).
        seed: Seed of the run.

    Returns:
        Views `(N, 3, h, w)` uint8.

    Raises:
        BadView: the transform fails for an image, or gives something other than a view.
    """
    threads = torch.get_num_threads()
    # One image is too little work for two threads: on two cores, one of them busy, two threads took 90 ms per image and
    # one thread took 2 ms
    torch.set_num_threads(1)
    # Only the CPU's generator is seeded. `torch.manual_seed` would also seed the GPU's, which dropout draws from
    state = torch.default_generator.get_state()
    others = random.getstate(), np.random.get_state()
    drawn: list[torch.Tensor] = []
    try:
        for canvas, (image, view) in zip(canvases, asked):
            torch.default_generator.manual_seed(_seed_of(seed, image, view))
            drawn.append(make(canvas))
    except _WrongView as error:
        raise BadView(str(error), len(drawn)) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise BadView(f"fails with {type(error).__name__}: {first_line(error)},", len(drawn)) from error
    finally:
        torch.default_generator.set_state(state)
        random.setstate(others[0])
        np.random.set_state(others[1])
        torch.set_num_threads(threads)
    return torch.stack(drawn)


def image_key(name: str) -> int:
    """A 64-bit number computed from an image's id. With it, an image's views do not depend on the other images."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _seed_of(seed: int, image: int, view: int) -> int:
    """A 63-bit seed from three numbers. The finaliser of splitmix64 makes seeds of similar numbers unrelated."""
    mixed = (seed * 0x9E3779B97F4A7C15 + image * 0xBF58476D1CE4E5B9 + view * 0x94D049BB133111EB) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1
