"""Temperature scaling: logits are divided by one number, so that probabilities match how often they are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks". The temperature is fitted on images that the weights were
not fitted on. It is then folded into the head, so that the run, its exported files and anyone who loads the weights use
it.
"""

from __future__ import annotations

import math
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

# Standard deviation of the prior of log T, a normal distribution around T = 1: most networks are between half and twice
# as sure as they are right (Guo et al. 2017, table 1 and section 4)
SPREAD = math.log(2)


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The most probable temperature between 0.1 and 10 for `logits` `(N, classes)` and `labels` `(N,)`, or 1.

    The likelihood alone has no maximum where every image is classified correctly; the prior (`SPREAD`) has its mode at
    1. The result is exactly 1 unless the gain in log-loss on these images is larger than 1.96 of its standard errors.
    For that, one more image is counted for which the temperature is as wrong as it can be, since images among which no
    error was seen do not show how large one is. So the log-loss of these images never rises.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def losses(exponent: float) -> npt.NDArray[np.float64]:
        """The loss `(N, classes)` of each image, whichever its label."""
        shares = softmax((logits / np.exp(exponent)).astype(np.float64))
        found: npt.NDArray[np.float64] = -np.log(np.maximum(shares, 1e-300))
        return found

    def objective(exponent: float) -> float:
        return float(losses(exponent)[rows, labels].sum() + (exponent / SPREAD) ** 2 / 2)

    found = minimize_scalar(objective, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    every = losses(0.0) - losses(found.x)
    gains = np.append(every[rows, labels], every.min(1).mean())
    if gains.mean() <= 1.96 * gains.std() / math.sqrt(len(gains)):
        return 1.0
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
