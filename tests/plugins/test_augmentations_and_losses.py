"""The built-in augmentations and losses keep the laws that plugins are held to, and the laws find what breaks them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import refused
from tests_support import TINY

from zoo import Experiment, UsageError, train
from zoo.augmentation import Augmentation
from zoo.catalogue import Catalogue, Entry
from zoo.config.choice import choose
from zoo.data.augmentation import centre_crop
from zoo.loss import Loss
from zoo.plugin import Plugins
from zoo.progress import Silent
from zoo.testing import check_augmentation, check_loss
from zoo.training.acceptance import order_note
from zoo.training.loss import BatchLoss

PLUGINS = Plugins()


@pytest.mark.parametrize("name", [entry.name for entry in PLUGINS.augmentations if not entry.value.requires])
def test_an_augmentation(name: str) -> None:
    check_augmentation(name, plugins=PLUGINS)
    check_augmentation(name, image_size=(20, 32), fill=(1, 2, 3), plugins=PLUGINS)


@pytest.mark.parametrize("text", ["cross-entropy", "focal", "focal:0.5", "focal:0", "bce", "ldl", "ldl:0.1", "ldl:100"])
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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_label_distribution_is_a_gaussian_in_the_order_of_the_classes(smoothing: float) -> None:
    """The gradient is `softmax - target`, so that the target is read off where the logits are equal."""
    sigma, classes, label = 1.5, 7, 2
    wanted = [math.exp(-((place - label) ** 2) / (2 * sigma**2)) for place in range(classes)]
    wanted = [(1 - smoothing) * one / sum(wanted) + smoothing / classes for one in wanted]
    logits = torch.zeros(1, classes, requires_grad=True)
    loss = BatchLoss(choose(f"ldl:{sigma}", PLUGINS.losses, PLUGINS), None, smoothing)
    value = loss(logits, torch.tensor([label]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.allclose(1 / classes - gradient[0], torch.tensor(wanted), atol=1e-6)
    divergence = sum(one * math.log(one * classes) for one in wanted)
    assert float(value.detach()) == pytest.approx(divergence, rel=1e-5)
    assert float(loss(torch.tensor([wanted]).log(), torch.tensor([label]))) == pytest.approx(0, abs=1e-5)


def test_a_label_distribution_of_little_width_is_the_cross_entropy() -> None:
    """In its gradient, with class weights, for whole and mixed labels."""
    labels = torch.arange(9) % 5
    whole = torch.nn.functional.one_hot(labels, 5).float()
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0, 1.0])
    for wanted in (labels, (whole + whole.flip(0)) / 2):
        logits = torch.randn(9, 5, requires_grad=True)
        narrow, plain = (
            torch.autograd.grad(BatchLoss(choose(name, PLUGINS.losses, PLUGINS), weights, 0.0)(logits, wanted), logits)
            for name in ("ldl:0.1", "cross-entropy")
        )
        assert torch.allclose(narrow[0], plain[0], atol=1e-5)


def test_a_label_distribution_that_is_met_has_no_loss_whatever_the_weights() -> None:
    loss = BatchLoss(choose("ldl", PLUGINS.losses, PLUGINS), torch.tensor([0.5, 1.0, 4.0]), 0.0)
    wanted = (-((torch.arange(3) - 2.0) ** 2) / 2).softmax(0)
    assert float(loss(wanted.log()[None], torch.tensor([2]))) == pytest.approx(0, abs=1e-5)


def test_numbers_that_are_sorted_as_texts_are_refused_where_their_order_matters() -> None:
    experiment = Experiment(data="x", backbone="y", strategy="full", loss="ldl:2")
    with refused(UsageError, "`losses/ldl:2.0`", "`1` < `10` < `2`"):
        order_note(("1", "10", "2"), experiment, PLUGINS)
    wrong: tuple[tuple[str, ...], ...] = (
        ("-1", "-2", "0"),
        ("1", "10", "2", "none"),
        ("2020-1", "2020-10", "2020-2"),
        ("1 mild", "10 bad", "2 fair"),
    )
    for classes in wrong:
        with refused(UsageError, "`losses/ldl:2.0`", f"`{classes[0]}` < `{classes[1]}`"):
            order_note(classes, experiment, PLUGINS)
    right: tuple[tuple[str, ...], ...] = (
        ("-1", "0", "1"),
        ("-10", "-5"),
        ("0-9", "10-19", "100+"),
        ("grade-1", "grade-2"),
        ("1 a 5", "1 b 3"),
    )
    for classes in (*right, ("01", "02", "10"), ("age 5", "age 7.5"), ("bad", "fair", "good")):
        (told,) = order_note(classes, experiment, PLUGINS)
        assert " < ".join(f"`{name}`" for name in classes) in told
    assert order_note(("1", "10", "2"), replace(experiment, loss="bce"), PLUGINS) == ()


def test_a_run_says_in_which_order_it_takes_the_classes(two_splits: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    experiment = replace(TINY, data=str(two_splits), loss="ldl", epochs=1)
    train(experiment, out=tmp_path / "run", plugins=PLUGINS, progress=Told())
    assert any(text.endswith("in this order: `blue` < `red`") for text in told)
