"""Temperature: one number that logits are divided by, so that a probability is as often right as it says.

Guo et al. 2017, "On Calibration of Modern Neural Networks". It is fitted on images that the weights were not, and then
folded into the head, so that the run, its exported files and whoever loads the weights have it alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.networks.head import find_head
from zoo.predictions import softmax

LOWEST, HIGHEST = 0.1, 10.0
FEWEST = 20  # images; on fewer, chance decides


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The temperature with the lowest log-loss of `logits` `(N, classes)`, between a tenth and ten.

    Targets are smoothed by one count a class (Platt 1999): where every image is right, certainty would have no end.
    """
    from scipy.optimize import minimize_scalar

    count, classes = logits.shape
    targets = np.full((count, classes), 1 / (count + classes))
    targets[np.arange(count), labels] = (count + 1) / (count + classes)

    def loss(exponent: float) -> float:
        share = softmax((logits / np.exp(exponent)).astype(np.float64))
        return float(-(targets * np.log(np.maximum(share, 1e-300))).sum() / count)

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def fold_temperature(network: Network, temperature: float) -> bool:
    """Divide the network's logits by `temperature` in its last linear layer; False where it does not end in one."""
    try:
        head = find_head(network)
    except UsageError:
        return False
    layer = head[-1] if isinstance(head, nn.Sequential) else head
    if not isinstance(layer, nn.Linear):
        return False
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.div_(temperature)
    return True
