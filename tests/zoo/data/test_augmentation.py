"""Views: drawn by a seed of (image, view), and by nothing else."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from zoo.data.augmentation import draw_views, image_key, make_view
from zoo.experiment import Augment

CANVASES = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ask(view: int) -> list[tuple[int, int]]:
    return [(image_key(f"train/{name}.jpg"), view) for name in "abcdef"]


@pytest.mark.parametrize("policy", get_args(Augment))
def test_a_view_depends_on_image_and_view_only(policy: Augment) -> None:
    make = make_view(policy, 32)
    torch.manual_seed(1)
    together = draw_views(CANVASES, ask(3), make, 0)
    torch.manual_seed(2)
    alone = draw_views(CANVASES[4:5], ask(3)[4:5], make, 0)
    assert together.shape == (6, 3, 32, 32) and together.dtype == torch.uint8
    assert torch.equal(together[4:5], alone)


@pytest.mark.parametrize("policy", [policy for policy in get_args(Augment) if policy != "none"])
def test_views_and_seeds_differ(policy: Augment) -> None:
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


@pytest.mark.parametrize("policy", get_args(Augment))
def test_views_may_be_rectangles(policy: Augment) -> None:
    wide = torch.zeros(2, 3, 24, 60, dtype=torch.uint8)
    assert draw_views(wide, ask(0)[:2], make_view(policy, (20, 50)), 0).shape == (2, 3, 20, 50)


@pytest.mark.parametrize("policy", ["rotate", "trivial", "rand"])
def test_corners_of_padded_images_have_the_colour_that_they_were_filled_with(policy: Augment) -> None:
    """In a canvas of one colour alone, nothing else appears where a view is turned, sheared or moved."""
    fill = (200, 90, 10)
    canvas = torch.tensor(fill, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)[None]
    make, plain = make_view(policy, 32, fill), make_view(policy, 32)
    shown = [[draw_views(canvas, [(1, view)], one, 0)[0] for view in range(40)] for one in (make, plain)]
    blacks = [sum(bool((view == 0).all(dim=0).any()) for view in views) for views in shown]
    assert blacks[0] < blacks[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", get_args(Augment))
def test_a_gpu_draws_the_views_of_a_cpu(policy: Augment) -> None:
    make = make_view(policy, 32)
    here, there = (draw_views(CANVASES.to(place), ask(2), make, 0).cpu().int() for place in ("cpu", "cuda"))
    assert float((here - there).abs().float().mean()) < 1
