"""A run that is no better than guessing says so, and one that learnt does not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests_support import TINY

from zoo import Plugins, Sample, train
from zoo.data.decoding import DecodedImages
from zoo.progress import Silent
from zoo.strategy import Group, Phase
from zoo.training.baseline import clearly_fitted, compare_with_guessing, entropy, some_fitted

WORDS = "guessing the shares of the classes"


class Said(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.booleans(), st.floats(0.01, 3))
def test_guessing_the_shares_is_never_learnt_and_anything_better_is(
    counts: list[int], balanced: bool, better: float
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    shares = np.full(len(counts), 1.0) if balanced else np.array(counts)
    logits = np.log(np.tile(shares / shares.sum(), (len(labels), 1)))
    assert entropy(labels) == pytest.approx(compare_with_guessing(logits, labels, labels, balanced=False).guessing)
    guessed = compare_with_guessing(logits, labels, labels, balanced=balanced)
    assert guessed.loss == pytest.approx(guessed.guessing) and not guessed.learnt
    logits[np.arange(len(labels)), labels] += better
    found = compare_with_guessing(logits, labels, labels, balanced=balanced)
    assert found.loss < found.guessing
    logits[np.arange(len(labels)), labels] -= 2 * better
    assert not compare_with_guessing(logits, labels, labels, balanced=balanced).learnt


@pytest.mark.parametrize("better", [0.0, 0.02, 0.4, 1.5])
def test_a_gain_within_its_error_is_none(better: float) -> None:
    labels = np.arange(100) % 2
    logits = np.random.default_rng(0).normal(0, 1, (100, 2))
    logits[np.arange(100), labels] += better
    found = compare_with_guessing(logits, labels, labels, balanced=False)
    assert found.learnt is (better == 1.5)
    assert (found.loss < 0.97 * found.guessing) is (better >= 0.4)  # 0.4 is a gain that chance explains


def test_with_balanced_classes_a_rare_one_counts_as_much() -> None:
    labels = np.array([0] * 98 + [1] * 2)
    logits = np.where(labels[:, None] == np.arange(2), 0.0, -1.0)  # 0.73 sure of each, right
    plain, balanced = (compare_with_guessing(logits, labels, labels, balanced=one) for one in (False, True))
    assert not plain.learnt and plain.guessing == pytest.approx(0.098, abs=1e-3)
    assert balanced.learnt and balanced.guessing == pytest.approx(np.log(2))


@pytest.mark.parametrize("balanced", [False, True])
def test_guessing_knows_the_shares_of_all_training_images(balanced: bool) -> None:
    """Of many images a hundred are scored, among which the shares differ."""
    everything, scored = np.repeat([0, 1], [150, 50]), np.repeat([0, 1], [50, 50])
    logits = np.random.default_rng(0).normal(0, 1, (100, 2))
    found = compare_with_guessing(logits, scored, everything, balanced=balanced)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(100), scored]
    if balanced:  # an image of the rarer class weighs three times as much, as in training
        assert found.guessing == pytest.approx(np.log(2))
        assert found.loss == pytest.approx(np.average(losses, weights=np.repeat([1, 3], 50)))
    else:
        assert found.guessing == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2)
        assert found.loss == pytest.approx(losses.mean())


def test_the_training_images_that_are_scored_are_of_all_classes() -> None:
    """They stand in the order of their classes, so the first hundred would be of one."""
    labels = np.repeat([0, 1], 150)
    pixels = np.broadcast_to(labels[:, None, None, None], (300, 4, 4, 3)).astype(np.uint8)
    samples = tuple(Sample(str(index), "ab"[label], pixels[index]) for index, label in enumerate(labels))
    chosen = some_fitted(DecodedImages(samples, labels, pixels, ""), 2)
    assert len(chosen.samples) == 100 and chosen.pixels.shape == (100, 2, 2, 3) and 30 < chosen.labels.sum() < 70
    assert np.array_equal(np.asarray(chosen.pixels)[:, 0, 0, 0], chosen.labels)
    assert [sample.label for sample in chosen.samples] == ["ab"[label] for label in chosen.labels]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 1, "lr": 3.0}, True),
        ({"epochs": 1, "lr": 1e-7, "class_balance": "loss"}, True),
        ({"epochs": 8, "lr": 0.02, "augment": "none"}, False),
        ({"epochs": None, "strategy": "linear", "augment": "none"}, False),
    ],
    ids=str,
)
def test_a_run_that_learnt_nothing_says_so(
    settings: dict[str, object], said: bool, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    progress = Said()
    asked = replace(TINY, data=str(two_splits), **settings)  # type: ignore[arg-type]
    run = train(asked, out=tmp_path / "run", plugins=plugins, progress=progress)
    fitted = run.record["fitted"]
    assert fitted["images"] == 24 and fitted["guessing"] == pytest.approx(np.log(2), abs=1e-6)
    assert fitted["learnt"] is not said
    warnings = [text for text in progress.warnings if WORDS in text]
    assert len(warnings) == said
    if said:
        assert "it took 3 steps: pass more `--epochs`" in warnings[0]


def test_a_run_is_compared_with_the_guess_that_its_classes_were_balanced_for(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Whether rare classes weigh more in the loss or are sampled more, guessing is the same; else it knows shares."""
    data = shutil.copytree(two_splits, tmp_path / "data")
    for photograph in sorted((data / "train/red").iterdir())[3:]:
        photograph.unlink()
    expected = {"none": entropy(np.repeat([0, 1], [12, 3])), "loss": np.log(2), "sample": np.log(2)}
    asked = replace(TINY, data=str(data), epochs=1, lr=1e-7, augment="none")
    for balance, guessing in expected.items():
        run = train(replace(asked, class_balance=balance), out=tmp_path / balance, plugins=plugins)  # type: ignore[arg-type]
        assert run.record["fitted"]["guessing"] == pytest.approx(guessing, abs=1e-6), balance


def test_an_epoch_far_below_guessing_needs_no_scoring() -> None:
    labels = np.arange(100) % 2
    phase, experiment = Phase(name="full", norm="frozen", groups=(Group(stages=("head",)),)), TINY
    far, near = {"train_loss": 0.5}, {"train_loss": 0.6}
    found = clearly_fitted(far, phase, experiment, labels, 1e-4)
    assert found is not None and found.learnt and (found.images, found.loss) == (100, 0.5)
    assert clearly_fitted(near, phase, experiment, labels, 1e-4) is None
    assert clearly_fitted(far, phase, experiment, labels[:99], 1e-4) is None
    for settings in (
        {"keep": "best"},
        {"early_stopping": 2},
        {"class_balance": "loss"},
        {"time_budget": 9.0},
        {"loss": "focal"},
    ):
        assert clearly_fitted(far, phase, replace(experiment, **settings), labels, 1e-4) is None
    assert clearly_fitted(far, phase, experiment, labels, 0.01) is None
    for options in ({"norm": "train"}, {"ema": 0.99}, {"mixup": 0.2}):
        assert clearly_fitted(far, replace(phase, **options), experiment, labels, 1e-4) is None


def test_smoothed_labels_only_add_to_a_loss_below_that_of_guessing() -> None:
    """The smoothed loss is at least the plain one's share plus that of guessing all classes alike."""
    random = np.random.default_rng(0)
    for classes in (2, 3, 10):
        logits = torch.from_numpy(random.normal(0, 3, (500, classes)))
        labels = torch.from_numpy(random.integers(0, classes, 500))
        plain, smooth = (
            torch.nn.functional.cross_entropy(logits, labels, label_smoothing=share, reduction="none")
            for share in (0.0, 0.1)
        )
        assert (smooth >= 0.9 * plain + 0.1 * np.log(classes) - 1e-9).all()
