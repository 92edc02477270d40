"""Temperature scaling: logits are divided by one number, so that probabilities match how often they are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks". The temperature is fitted on images that the weights were
not fitted on. It is then folded into the head, so that the run, its exported files and anyone who loads the weights use
it.
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

LOWEST, HIGHEST = 0.1, 10.0  # bounds of the temperature
FEWEST = 20  # images to fit on; with fewer, the result would be mostly chance


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The temperature between 0.1 and 10 with the lowest log-loss of `logits` `(N, classes)` for `labels` `(N,)`.

    Targets are smoothed by one count per class (Platt 1999): without that, the temperature would go to its lower bound
    where every image is classified correctly.
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
    """Divide the network's last linear layer by `temperature`, in place; False if the head does not end in one."""
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
