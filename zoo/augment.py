"""Augmentation: random views of training images, drawn by a seed of (image, view).

A view depends on nothing else: not on the batch, the strategy, the order or a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torchvision.transforms import v2

from zoo.experiment import Augment

View = Callable[[torch.Tensor], torch.Tensor]

BILINEAR = v2.InterpolationMode.BILINEAR


def _zoom(size: int, least: float) -> v2.Transform:
    """A crop of at least that share of the area, resized to `size`: Szegedy et al. 2015, with gentle bounds."""
    return v2.RandomResizedCrop(size, scale=(least, 1.0), ratio=(4 / 5, 5 / 4), interpolation=BILINEAR, antialias=True)


def make_view(policy: Augment, size: int) -> View:
    """The policy as one transform: a canvas `(3, R, R)` uint8 to a view `(3, size, size)` uint8."""
    flip = v2.RandomHorizontalFlip()
    crop = v2.CenterCrop(size)
    steps: dict[Augment, Sequence[torch.nn.Module]] = {
        "none": [crop],
        "flip": [flip, crop],
        "rotate": [flip, v2.RandomRotation(15, interpolation=BILINEAR), crop],
        "zoom": [flip, _zoom(size, 0.35)],
        "light": [flip, _zoom(size, 0.5), v2.ColorJitter(brightness=0.2, contrast=0.2)],
        "trivial": [flip, _zoom(size, 0.5), v2.TrivialAugmentWide(interpolation=BILINEAR)],  # Müller and Hutter 2021
        "rand": [flip, _zoom(size, 0.5), v2.RandAugment(interpolation=BILINEAR)],  # Cubuk et al. 2020
    }
    view: View = v2.Compose(list(steps[policy]))
    return view


def draw_views(canvases: torch.Tensor, indices: Sequence[int], view: int, make: View, seed: int) -> torch.Tensor:
    """The `view`-th view of each image: canvases `(N, 3, R, R)` uint8 to `(N, 3, size, size)` uint8."""
    threads = torch.get_num_threads()
    # One image is too little work to share: on two cores of which one was busy, two threads took 90 ms an image for
    # what one thread does in 2
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            drawn = []
            for canvas, index in zip(canvases, indices):
                torch.manual_seed(_seed_of(seed, index, view))
                drawn.append(make(canvas))
    finally:
        torch.set_num_threads(threads)
    return torch.stack(drawn)


def _seed_of(seed: int, image: int, view: int) -> int:
    """A 63-bit seed from three numbers; splitmix64's finaliser, so that neighbours share nothing."""
    mixed = (seed * 0x9E3779B97F4A7C15 + image * 0xBF58476D1CE4E5B9 + view * 0x94D049BB133111EB) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1
