"""The augmentations of Albumentations keep the laws of the built-in ones.

The package is large, so they are tested where it is installed.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from messages import refused
from tests_support import TINY

from zoo import Plugins, UsageError, train
from zoo.config import choice as choices
from zoo.config.choice import choose
from zoo.data.augmentation import draw_views, drawing_of, make_view
from zoo.plugin import PluginCandidate, installed_candidates
from zoo.testing import check_augmentation
from zoo_albumentations.catalogue import ROWS

NAMES = [row.name for row in ROWS]


def loaded() -> Plugins:
    """What is installed, and Albumentations, also where the tree was installed before it was in it."""
    point = importlib.metadata.EntryPoint("albumentations", "zoo_albumentations", "zoo.plugins")
    candidates = [one for one in installed_candidates() if one.name != "albumentations"]
    return Plugins([*candidates, PluginCandidate("albumentations", "backbone-zoo", "0", point)])


PLUGINS = loaded()


def test_a_package_that_is_not_installed_is_one_line(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "find_spec", lambda name: None)
    experiment = replace(TINY, data=str(two_splits), augment="albumentations/blur:0.3")
    with refused(UsageError, "`albumentations/blur:0.3`", "albumentations and cv2", "backbone-zoo[albumentations]"):
        train(experiment, out=tmp_path / "run", plugins=PLUGINS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_augmentation(name: str) -> None:
    pytest.importorskip("albumentations")
    check_augmentation(f"{name}:1,chance=1", plugins=PLUGINS)
    check_augmentation(name, image_size=(20, 32), fill=(1, 2, 3), plugins=PLUGINS)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_the_same_in_whatever_order_views_are_drawn(name: str) -> None:
    """Bit for bit, also for a pipeline that is made anew, as in another process."""
    pytest.importorskip("albumentations")
    from zoo_albumentations import views

    make = make_view(drawing_of(choose(f"{name}:1,chance=1", PLUGINS.augmentations, PLUGINS)), 48)
    canvases = torch.randint(0, 256, (1, 3, 56, 60), dtype=torch.uint8).repeat(6, 1, 1, 1)
    asked = [(7, view) for view in range(6)]
    first = draw_views(canvases, asked, make, 3)
    views._pipeline.cache_clear()
    torch.manual_seed(1)
    again = torch.cat([draw_views(canvases[:1], [one], make, 3) for one in reversed(asked)]).flip(0)
    assert torch.equal(first, again)
    assert not torch.equal(draw_views(canvases, asked, make, 4), first)


@pytest.mark.parametrize("name", NAMES)
def test_strength_is_how_far_a_view_is_changed(name: str) -> None:
    pytest.importorskip("albumentations")
    ramp = torch.arange(64).mul(4).to(torch.uint8)
    canvas = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), ramp.flip(0).expand(64, 64)])[None]
    changes = []
    for strength in (0.05, 1):
        text = f"{name}:{strength},chance=1,least=1"
        make = make_view(drawing_of(choose(text, PLUGINS.augmentations, PLUGINS)), 64)
        drawn = draw_views(canvas.repeat(24, 1, 1, 1), [(0, view) for view in range(24)], make, 0).float()
        mirrored = (drawn - canvas.flip(3).float()).abs().mean((1, 2, 3))
        changes.append(float(torch.minimum((drawn - canvas.float()).abs().mean((1, 2, 3)), mirrored).mean()))
    assert changes[1] > 1.3 * changes[0], changes


def test_the_versions_of_the_package_are_part_of_what_identifies_features() -> None:
    albumentations = pytest.importorskip("albumentations")
    drawing = drawing_of(choose("albumentations/noise", PLUGINS.augmentations, PLUGINS))
    assert f"albumentations {albumentations.__version__}" in drawing.code and "cv2 " in drawing.code


def test_a_run_is_trained_with_it(two_splits: Path, tmp_path: Path) -> None:
    pytest.importorskip("albumentations")
    experiment = replace(TINY, data=str(two_splits), augment="camera:0.3", epochs=1)
    run = train(experiment, out=tmp_path / "run", plugins=PLUGINS)
    assert run.record["augment"]["name"] == "albumentations/camera" and "albumentations" in run.record["versions"]


@pytest.mark.parametrize("name", NAMES)
def test_the_bounds_of_strength_can_be_drawn(name: str) -> None:
    """Whichever kind of change is drawn."""
    pytest.importorskip("albumentations")
    canvas = torch.full((24, 3, 40, 40), 99, dtype=torch.uint8)
    for strength in (0.01, 1):
        drawing = drawing_of(choose(f"{name}:{strength},chance=1,least=0.05", PLUGINS.augmentations, PLUGINS))
        asked = [(number, 0) for number in range(24)]
        assert draw_views(canvas, asked, make_view(drawing, 32), 0).shape == (24, 3, 32, 32)
