"""Augmentation: random views of training images. Each view has its own seed, made from the image and the view's number.

So a view does not depend on the batch, the strategy, the order of images, or whether training was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch

from zoo.experiment import Augment
from zoo.preprocess import Colour, ImageSize, height_width
from zoo.system.lazy_compiler import without_compiler

View = Callable[[torch.Tensor], torch.Tensor]


def make_view(policy: Augment, size: ImageSize, fill: Colour | None = None) -> View:
    """The transform of a policy: it maps a canvas `(3, H, W)` uint8 to a view `(3, h, w)` uint8.

    Args:
        policy: The policy.
        size: Of the view, `(h, w)`.
        fill: Of images that are padded: a turned or sheared view has this colour in its corners, as around the image.
            Random crops are cut from the padded canvas. None: black corners.
    """
    height, width = size = height_width(size)
    shape = width / height
    corners = None if fill is None else list(fill)
    with without_compiler():
        from torchvision.transforms import v2

    flip, crop, bilinear = v2.RandomHorizontalFlip(), v2.CenterCrop(size), v2.InterpolationMode.BILINEAR

    def zoom(least: float) -> torch.nn.Module:
        """A random crop of at least the share `least` of the area, resized to `size`.

        Szegedy et al. 2015, "Going deeper with convolutions", with narrower bounds.
        """
        transform: torch.nn.Module = v2.RandomResizedCrop(
            size,
            scale=(least, 1.0),
            ratio=(4 / 5 * shape, 5 / 4 * shape),
            interpolation=bilinear,
            antialias=True,
        )
        return transform

    steps: dict[Augment, Sequence[torch.nn.Module]] = {
        "none": [crop],
        "flip": [flip, crop],
        "rotate": [flip, v2.RandomRotation(15, interpolation=bilinear, fill=corners or 0), crop],
        "zoom": [flip, zoom(0.35)],
        "light": [flip, zoom(0.5), v2.ColorJitter(brightness=0.2, contrast=0.2)],
        # Müller and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation"
        "trivial": [flip, zoom(0.5), v2.TrivialAugmentWide(interpolation=bilinear, fill=corners)],
        # Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space"
        "rand": [flip, zoom(0.5), v2.RandAugment(interpolation=bilinear, fill=corners)],
    }
    view: View = v2.Compose(list(steps[policy]))
    return view


def draw_views(canvases: torch.Tensor, asked: Sequence[tuple[int, int]], make: View, seed: int) -> torch.Tensor:
    """One view of each image.

    Args:
        canvases: `(N, 3, H, W)` uint8.
        asked: For each image its key (see `image_key`) and the number of the view.
        make: The transform of the policy (see `make_view`).
        seed: Seed of the run.

    Returns:
        Views `(N, 3, h, w)` uint8.
    """
    threads = torch.get_num_threads()
    # One image is too little work for two threads: on two cores, one of them busy, two threads took 90 ms per image and
    # one thread took 2 ms
    torch.set_num_threads(1)
    # Only the CPU's generator is seeded. `torch.manual_seed` would also seed the GPU's, which dropout draws from
    state = torch.default_generator.get_state()
    try:
        drawn = []
        for canvas, (image, view) in zip(canvases, asked):
            torch.default_generator.manual_seed(_seed_of(seed, image, view))
            drawn.append(make(canvas))
    finally:
        torch.default_generator.set_state(state)
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
