"""The built-in augmentations and losses keep the laws that plugins are held to, and the laws find what breaks them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoo.augmentation import Augmentation
from zoo.catalogue import Catalogue, Entry
from zoo.config.choice import choose
from zoo.data.augmentation import centre_crop
from zoo.loss import Loss
from zoo.plugin import Plugins
from zoo.testing import check_augmentation, check_loss
from zoo.training.loss import BatchLoss

PLUGINS = Plugins()


@pytest.mark.parametrize("name", [entry.name for entry in PLUGINS.augmentations])
def test_an_augmentation(name: str) -> None:
    check_augmentation(name, plugins=PLUGINS)
    check_augmentation(name, image_size=(20, 32), fill=(1, 2, 3), plugins=PLUGINS)


@pytest.mark.parametrize("text", ["cross-entropy", "focal", "focal:0.5", "focal:0", "bce"])
def test_a_loss(text: str) -> None:
    check_loss(text, plugins=PLUGINS)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda logits, targets: (logits - logits.mean(0)).square().sum(1), "depends on other images"),
        (lambda logits, targets: logits.sum(1).sqrt(), "is nan|not finite"),
        (lambda logits, targets: logits.sum(), "not one value for each"),
        (lambda logits, targets: logits.sum(1) * 1j, "gives complex numbers"),
    ],
)
def test_a_broken_loss_is_found(function: Any, told: str) -> None:
    plugins = Plugins()
    plugin = next(one for one in plugins.plugins if one.name == "losses")
    row = Loss(name="broken", summary="x", target=function)
    plugins.losses = Catalogue("loss", "losses", [Entry(plugin.name, row)])
    with pytest.raises(AssertionError, match=told):
        check_loss("broken", plugins=plugins)


def test_quarter_turns_keep_every_pixel() -> None:
    from zoo_augmentations.views import turns

    canvas = torch.arange(3 * 16 * 16, dtype=torch.float32).reshape(3, 16, 16).remainder(251).to(torch.uint8)
    found = {turns(canvas, (16, 16), None).numpy().tobytes() for _ in range(100)}
    assert len(found) == 8 and all(sorted(one) == sorted(canvas.numpy().tobytes()) for one in found)


def with_rows(noun: str, plural: str, owner: str, *rows: Any) -> Plugins:
    plugins = Plugins()
    setattr(plugins, plural, Catalogue(noun, plural, [Entry(owner, row) for row in rows]))
    return plugins


def test_an_augmentation_that_changes_its_canvas_is_found() -> None:
    row = Augmentation(
        name="broken", summary="x", target=lambda canvas, size, fill: centre_crop(canvas.zero_(), size, fill)
    )
    plugins = with_rows("augmentation", "augmentations", "augmentations", row)
    with pytest.raises(AssertionError, match="changes the canvas"):
        check_augmentation("broken", plugins=plugins)


def test_a_loss_is_weighted_once() -> None:
    """By itself or by zoo; a mixed image by the mean weight of what it is mixed of."""
    weights = torch.tensor([0.5, 1.0, 4.0])
    rows = (
        Loss(name="mine", summary="x", target=lambda logits, targets: logits[:, 0] * 0 + 1),
        Loss(name="own", summary="x", target=lambda logits, targets: logits[:, 0] * 0 + 1, weighted=True),
    )
    plugins = with_rows("loss", "losses", "losses", *rows)
    logits = torch.zeros(2, 3, requires_grad=True)
    for name, labels, expected in (
        ("mine", torch.tensor([0, 2]), 4.5),
        ("mine", torch.tensor([[0.75, 0.0, 0.25], [0.0, 0.5, 0.5]]), 0.375 + 1 + 0.5 + 2),
        ("own", torch.tensor([0, 2]), 2.0),
    ):
        found = BatchLoss(choose(name, plugins.losses, plugins), weights, 0.1)(logits, labels)
        assert float(found.detach()) == pytest.approx(expected)
