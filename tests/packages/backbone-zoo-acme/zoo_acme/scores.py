"""A metric."""

import numpy as np


def brier(predictions):
    """The Brier score (1950), from labels `(N,)` and probabilities `(N, classes)`."""
    right = np.eye(len(predictions.classes))[predictions.labels]
    return float(np.square(predictions.probabilities - right).sum(axis=1).mean())
