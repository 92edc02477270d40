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
CLOSE = 1e-8  # difference of log T at which the search ends
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
    rows = np.arange(len(labels))

    def losses(exponent: float) -> npt.NDArray[np.float64]:
        """The loss `(N, classes)` of each image, whichever its label."""
        shares = softmax((logits / np.exp(exponent)).astype(np.float64))
        found: npt.NDArray[np.float64] = -np.log(np.maximum(shares, 1e-300))
        return found

    exponent = _most_probable(logits, labels)
    every = losses(0.0) - losses(exponent)
    gains = np.append(every[rows, labels], every.min(1).mean())
    if gains.mean() <= 1.96 * gains.std() / math.sqrt(len(gains)):
        return 1.0
    return math.exp(exponent)


def _most_probable(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The log T between the bounds at which the loss and the prior's are least together.

    It is the root of the derivative, found by Newton's method and, where a step would leave what is left of the
    interval, by bisection. `scipy.optimize` finds the same, but its import takes longer than a head is solved.
    """
    rows, exponent, low, high = np.arange(len(labels)), 0.0, math.log(LOWEST), math.log(HIGHEST)
    while True:
        scaled = logits.astype(np.float64) / math.exp(exponent)
        shares = softmax(scaled)
        means = (shares * scaled).sum(1)
        gaps = scaled[rows, labels] - means
        slope = gaps.sum() + exponent / SPREAD**2
        if slope == 0:
            return exponent
        curvature = ((shares * np.square(scaled - means[:, None])).sum(1) - gaps).sum() + 1 / SPREAD**2
        low, high = (low, exponent) if slope > 0 else (exponent, high)
        following = exponent - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - exponent) < CLOSE:
            return float(following)
        exponent = following


def fold_temperature(network: Network, temperature: float) -> bool:
    """Divide the network's last linear layer by `temperature`, in place; False if the head does not end in one.

    A head of another kind may do it itself by a method `divide_logits`.
    """
    try:
        head = find_head(network)
    except UsageError:
        return False
    layer = head[-1] if isinstance(head, nn.Sequential) else head
    divide = getattr(layer, "divide_logits", None)
    if callable(divide):
        divide(temperature)
        return True
    if not isinstance(layer, nn.Linear):
        return False
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.div_(temperature)
    return True
