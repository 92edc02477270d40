"""Views: drawn by a seed of (image, view), and by nothing else."""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from zoo.augmentation import Augmentation
from zoo.catalogue import Entry
from zoo.config.choice import Choice, choose
from zoo.data.augmentation import BadView, View, draw_views, drawing_of, image_key
from zoo.data.augmentation import make_view as make_of
from zoo.plugin import Plugins
from zoo.preprocess import Colour, ImageSize

CANVASES = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

PLUGINS = Plugins()
NAMES = [entry.name for entry in PLUGINS.augmentations if all(map(find_spec, entry.value.requires))]


def make_view(policy: str, size: ImageSize, fill: Colour | None = None) -> View:
    return make_of(drawing_of(choose(policy, PLUGINS.augmentations, PLUGINS)), size, fill)


def ask(view: int) -> list[tuple[int, int]]:
    return [(image_key(f"train/{name}.jpg"), view) for name in "abcdef"]


@pytest.mark.parametrize("policy", NAMES)
def test_a_view_depends_on_image_and_view_only(policy: str) -> None:
    make = make_view(policy, 32)
    torch.manual_seed(1)
    together = draw_views(CANVASES, ask(3), make, 0)
    torch.manual_seed(2)
    alone = draw_views(CANVASES[4:5], ask(3)[4:5], make, 0)
    assert together.shape == (6, 3, 32, 32) and together.dtype == torch.uint8
    assert torch.equal(together[4:5], alone)


@pytest.mark.parametrize("policy", [policy for policy in NAMES if policy != "none"])
def test_views_and_seeds_differ(policy: str) -> None:
    make = make_view(policy, 32)
    views = [draw_views(CANVASES, ask(view), make, 0) for view in range(8)]
    assert len({view.numpy().tobytes() for view in views}) > 1
    other = [draw_views(CANVASES, ask(view), make, 1) for view in range(8)]
    assert any(not torch.equal(a, b) for a, b in zip(views, other))


def test_none_is_the_centre_crop() -> None:
    assert torch.equal(draw_views(CANVASES, ask(0), make_view("none", 32), 0), CANVASES[:, :, 4:36, 4:36])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    draw_views(CANVASES, ask(0), make_view("rand", 32), 0)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


@pytest.mark.parametrize("policy", NAMES)
def test_views_may_be_rectangles(policy: str) -> None:
    wide = torch.zeros(2, 3, 24, 60, dtype=torch.uint8)
    assert draw_views(wide, ask(0)[:2], make_view(policy, (20, 50)), 0).shape == (2, 3, 20, 50)


@pytest.mark.parametrize("policy", ["rotate", "trivial", "rand", "auto"])
def test_corners_of_padded_images_have_the_colour_that_they_were_filled_with(policy: str) -> None:
    """In a canvas of one colour alone, nothing else appears where a view is turned, sheared or moved."""
    fill = (200, 90, 10)
    canvas = torch.tensor(fill, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)[None]
    make, plain = make_view(policy, 32, fill), make_view(policy, 32)
    shown = [[draw_views(canvas, [(1, view)], one, 0)[0] for view in range(40)] for one in (make, plain)]
    blacks = [sum(bool((view == 0).all(dim=0).any()) for view in views) for views in shown]
    assert blacks[0] < blacks[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", NAMES)
def test_a_gpu_draws_the_views_of_a_cpu(policy: str) -> None:
    make = make_view(policy, 32)
    here, there = (draw_views(CANVASES.to(place), ask(2), make, 0).cpu().int() for place in ("cpu", "cuda"))
    assert float((here - there).abs().float().mean()) < 1


def drawn_by(give: Any) -> torch.Tensor:
    row = Augmentation(name="mine", summary="x", target=lambda canvas, size, fill: give(canvas))
    choice = Choice(entry=Entry("acme", row), noun="augmentation", values={}, distribution="acme 1")
    return draw_views(CANVASES, ask(0), make_of(drawing_of(choice), 32), 0)


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda canvas: canvas, r"gives \(3, 40, 40\) uint8, not \(3, 32, 32\) uint8"),
        (lambda canvas: canvas[:, :32, :32].float(), r"gives \(3, 32, 32\) float32"),
        (lambda canvas: None, "gives a `NoneType`"),
        (lambda canvas: canvas.no_such, "fails with AttributeError"),
    ],
)
def test_a_wrong_view_is_told_with_its_place(give: Any, told: str) -> None:
    with pytest.raises(BadView, match=told) as caught:
        drawn_by(lambda canvas: give(canvas) if torch.equal(canvas, CANVASES[2]) else canvas[:, :32, :32])
    assert caught.value.place == 2


def test_a_plugin_may_draw_from_numpy_and_python() -> None:
    def give(canvas: torch.Tensor) -> torch.Tensor:
        return canvas[:, :32, :32] // 2 + random.randrange(60) + int(np.random.randint(60))

    first = drawn_by(give)
    np.random.seed(7)
    state, numbers = random.getstate(), np.random.get_state()
    assert torch.equal(drawn_by(give), first) and random.getstate() == state
    assert str(np.random.get_state()) == str(numbers)
    assert len({view.numpy().tobytes() for view in first - CANVASES[:, :, :32, :32] // 2}) > 1


def test_features_of_another_version_of_a_plugin_are_others() -> None:
    row = Augmentation(name="mine", summary="x", target=lambda canvas, size, fill: canvas)
    keys = [
        drawing_of(Choice(entry=Entry("acme", row), noun="augmentation", values={}, distribution=version)).key
        for version in ("acme 1", "acme 1", "acme 2")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_an_erased_rectangle_has_the_colour_around_padded_images() -> None:
    fill = (200, 90, 10)
    make = make_view("erase:1", 32, fill)
    views = draw_views(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), ask(0)[:4], make, 0)
    assert {tuple(pixel) for pixel in views.permute(0, 2, 3, 1).reshape(-1, 3).tolist()} == {(0, 0, 0), fill}
