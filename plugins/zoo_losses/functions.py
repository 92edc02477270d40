"""The built-in losses, as functions of logits `(N, classes)` and targets that return a value for each image `(N,)`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from zoo.loss import Targets

# Smallest value of 1 - p: at 0 the gradient of its power is infinite for a gamma below 1
LEAST = 1e-7


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross-entropy with smoothed labels; the loss of each label counts with its class's weight.

    torch's `weight` together with `label_smoothing` also weighs each class's share of the smoothing, so that with one
    rare class the lowest loss is to answer it always: from 19 : 1 images on, at a smoothing of 0.1.
    """
    if targets.class_weights is not None and targets.mixed:
        return functional.cross_entropy(logits, targets.weighted_shares, reduction="none")
    values = functional.cross_entropy(logits, targets.labels, reduction="none", label_smoothing=targets.smoothing)
    return values if targets.class_weights is None else values * targets.weights


def focal(logits: torch.Tensor, targets: Targets, gamma: float) -> torch.Tensor:
    """The sum over classes of share times `(1 - p)^gamma` times `-log p`: Lin et al. 2017, equation 4."""
    logs = logits.log_softmax(1)
    rest = (-torch.expm1(logs)).clamp(min=LEAST)
    return -(targets.weighted_shares * rest**gamma * logs).sum(1)


def bce(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """The sum over classes of the binary cross-entropy of a sigmoid: Wightman et al. 2021, "ResNet strikes back"."""
    shares = targets.weighted_shares
    rest = shares.sum(1, keepdim=True) - shares
    return -(shares * functional.logsigmoid(logits) + rest * functional.logsigmoid(-logits)).sum(1)


def ldl(logits: torch.Tensor, targets: Targets, sigma: float) -> torch.Tensor:
    """Kullback-Leibler divergence of the classes from the label distribution: 0 where the two are equal.

    Gao et al. 2017, "Deep label distribution learning with label ambiguity", section III: the label of class y
    is a share of each class k in proportion to `exp(-(k - y)^2 / (2 sigma^2))`, for classes in an order. Labels
    are smoothed after that, and each counts with its class's weight.
    """
    places = torch.arange(targets.classes, device=logits.device, dtype=logits.dtype)
    distributions = (-((places[:, None] - places) ** 2) / (2 * sigma**2)).softmax(1)
    whole = replace(targets, smoothing=0.0).weighted_shares @ distributions
    wanted = replace(targets, labels=whole, class_weights=None).shares
    weights = wanted.sum(1, keepdim=True)
    return (torch.xlogy(wanted, wanted / weights) - wanted * logits.log_softmax(1)).sum(1)
