"""The baseline of every run: the loss of guessing the shares of the classes, which a network that learnt lies below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import DecodedImages
from zoo.data.image import centre_crop
from zoo.experiment import Experiment
from zoo.predictions import softmax
from zoo.preprocess import ImageSize
from zoo.strategy import Phase

# Training images that are scored after training: enough to show that a network that learnt is far below the baseline,
# and one forward pass of few images
IMAGES = 100

# Share of the loss of guessing: a random head on few images can be this much better by chance, on all alike
LEAST = 0.01

# Of the loss of guessing: an epoch whose mean loss is below this share of it leaves no doubt
CLEARLY = 0.8


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a finished network makes of images that it was fitted on.

    Attributes:
        images: how many of them were scored.
        loss: mean log-loss; with balanced classes, the mean over classes.
        guessing: the log-loss of answering each of them with the shares of the classes in training.
        learnt: whether the loss is below that by more than 1.96 standard errors of the difference, and by one per cent.
    """

    images: int
    loss: float
    guessing: float
    learnt: bool

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            "images": self.images,
            "loss": round(self.loss, 6),
            "guessing": round(self.guessing, 6),
            "learnt": self.learnt,
        }


# A last rate up to this share of the highest, so that the last steps change little
ENDS_LOW = 1e-3


def clearly_fitted(
    epoch: Mapping[str, Any], phase: Phase, experiment: Experiment, labels: npt.NDArray[np.int64], last_rate: float
) -> Fitted | None:
    """What the loss of the last epoch says without another pass over images; None where it cannot say it.

    It is the loss of the weights that are kept, in the modes of evaluation but for dropout, as it fell during the
    epoch. Smoothed labels make it an upper bound: below the loss of guessing, they only add to it.

    Args:
        epoch: The last record of the history.
        phase: The last phase, which was trained.
        experiment: The settings of the run.
        labels: `(N,)`, of all training images.
        last_rate: The rate of the last step, as a share of the highest.
    """
    others = experiment.keep != "last" or experiment.early_stopping is not None or phase.ema is not None
    others |= experiment.loss != "cross-entropy"  # another loss has no relation to that of guessing
    mixed = phase.mixup is not None or phase.cutmix is not None
    others |= experiment.time_budget is not None  # it may have ended the epoch after a few images
    others |= last_rate > ENDS_LOW  # the last steps may have ruined what the epoch's mean still praises
    if others or mixed or phase.norm == "train" or experiment.class_balance != "none" or len(labels) < IMAGES:
        return None
    loss, guessing = float(epoch["train_loss"]), entropy(labels)
    if not loss < CLEARLY * guessing:
        return None
    return Fitted(images=len(labels), loss=loss, guessing=guessing, learnt=True)


def some_fitted(part: DecodedImages, crop: ImageSize) -> DecodedImages:
    """Up to `IMAGES` training images, drawn at random but always the same, as the network sees them in evaluation."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(part.samples))[:IMAGES])
    pixels = np.stack([centre_crop(part.pixels[index], crop) for index in chosen])
    return replace(
        part, samples=tuple(part.samples[index] for index in chosen), labels=part.labels[chosen], pixels=pixels
    )


def entropy(labels: npt.NDArray[np.int64]) -> float:
    """The log-loss of answering all images with the shares of their classes."""
    shares = np.bincount(labels) / len(labels)
    return float(-np.log(shares[labels]).mean())


def compare_with_guessing(
    logits: npt.NDArray[Any], labels: npt.NDArray[np.int64], all_labels: npt.NDArray[np.int64], *, balanced: bool
) -> Fitted:
    """Compare logits `(N, classes)` of fitted images with guessing.

    Args:
        logits: of some of the training images.
        labels: `(N,)`, theirs.
        all_labels: of all training images, for the shares.
        balanced: whether classes counted equally in training; then they do here.
    """
    shares = np.bincount(all_labels, minlength=logits.shape[1]) / len(all_labels)
    weights = 1 / shares[labels] if balanced else np.ones(len(labels))
    if balanced:
        shares = np.full(len(shares), 1 / len(shares))
    probabilities = softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
    losses, guesses = -np.log(np.maximum(probabilities, 1e-300)), -np.log(shares[labels])
    weights /= weights.sum()
    gain = float((weights * (guesses - losses)).sum())
    error = math.sqrt(float(((weights * (guesses - losses - gain)) ** 2).sum()))
    return Fitted(
        images=len(labels),
        loss=float((weights * losses).sum()),
        guessing=float((weights * guesses).sum()),
        learnt=gain > max(1.96 * error, LEAST * float((weights * guesses).sum())),
    )
