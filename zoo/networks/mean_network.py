"""Mean network: the mean of the probabilities of several networks, or of one network over views, as one module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the networks whose probabilities are averaged.

    Attributes:
        model: Maps normalised images to logits.
        rows: Index of its logit for each class of the whole.
        scale: Factor of each colour channel, from the whole's normalisation to its own.
        shift: What is added to each channel after that.
    """

    model: nn.Module
    rows: Sequence[int]
    scale: Sequence[float]
    shift: Sequence[float]


def log_mean(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logarithms `(N, classes)` of the mean of several softmax outputs: their softmax is that mean."""
    shares = torch.stack([torch.log_softmax(one, dim=1) for one in logits])
    largest = shares.amax(dim=0)  # not `logsumexp`, which some engines compute without taking the largest out
    return largest + torch.log(torch.exp(shares - largest).sum(dim=0)) - math.log(len(logits))


class MeanNetwork(nn.Module):
    """The mean of the probabilities of several networks of the same classes, divided by a temperature.

    Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles",
    section 2.4. The mean of probabilities is chosen, and not that of logits, because each member's probabilities were
    calibrated by a temperature of its own, while the scale of logits means nothing from one network to another. The
    mean of calibrated probabilities is less sure than it could be (Rahaman and Thiery 2021, "Uncertainty quantification
    and deep ensembles"), so a temperature is fitted after it.
    """

    temperature: torch.Tensor

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.model for member in members)
        self.register_buffer("temperature", torch.ones(()))
        self._normalisations: list[tuple[str, str] | None] = []
        self._rows: list[str | None] = []
        for number, member in enumerate(members):
            same = all(one == 1 for one in member.scale) and not any(member.shift)
            names = None
            if not same:
                names = (f"scale_{number}", f"shift_{number}")
                for name, values in zip(names, (member.scale, member.shift)):
                    self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
            self._normalisations.append(names)
            in_order = list(member.rows) == list(range(len(member.rows)))
            self._rows.append(None if in_order else f"rows_{number}")
            if not in_order:
                self.register_buffer(f"rows_{number}", torch.tensor(list(member.rows)), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images `(N, 3, H, W)` to logits `(N, classes)`."""
        found = []
        for model, names, rows in zip(self.members, self._normalisations, self._rows):
            given = images if names is None else images * getattr(self, names[0]) + getattr(self, names[1])
            logits = model(given)
            found.append(logits if rows is None else logits.index_select(1, getattr(self, rows)))
        return log_mean(found) / self.temperature


class FlippedViews(nn.Module):
    """Test-time augmentation: the mean of the probabilities of each image and of its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images `(N, 3, H, W)` to logits `(N, classes)`."""
        return log_mean([self.model(images), self.model(images.flip(3))])


class CroppedViews(nn.Module):
    """Test-time augmentation: the mean of the probabilities of the four corners and the centre of each image.

    With their mirror images these are the ten crops of Krizhevsky et al. 2012, "ImageNet classification with deep
    convolutional neural networks", section 4.1.

    Args:
        model: Maps normalised images of the size of a crop to logits.
        whole: Height and width of the images that are given.
        crop: Height and width of a crop.
        mirrored: Whether there are ten crops, and not five.
    """

    def __init__(self, model: nn.Module, whole: tuple[int, int], crop: tuple[int, int], *, mirrored: bool) -> None:
        super().__init__()
        self.model = model
        self.crop = crop
        down, right = (have - want for have, want in zip(whole, crop))
        self.corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
        self.mirrored = mirrored

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images `(N, 3, H, W)` to logits `(N, classes)`."""
        height, width = self.crop
        crops = [images[:, :, top : top + height, left : left + width] for top, left in self.corners]
        if self.mirrored:
            crops += [one.flip(3) for one in crops]
        logits = self.model(torch.cat(crops))
        return log_mean(logits.reshape(len(crops), -1, logits.shape[1]).unbind())
