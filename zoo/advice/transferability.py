"""Transferability: estimates of how well features `(N, D)` suit labels `(N,)`, without training a network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# Relative change at which the fixed-point iteration of LogME ends; the evidence then changes only in digits that do not
# matter
TOLERANCE = 1e-9
MOST_ITERATIONS = 500

NEIGHBOURS = 10


def logme(features: Features, labels: Labels) -> float:
    """LogME: logarithm of the maximum evidence of a Bayesian linear model, per image, the mean over classes.

    The model predicts the one-hot label of a class from the features. You et al. 2021, "LogME: practical assessment of
    pre-trained models for transfer learning", section 4, equation 1; computed by the fixed-point iteration of You et
    al. 2022 (JMLR 23), section 4.3, which needs one singular value decomposition.
    """
    count, width = features.shape
    left, values, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    squares = values**2
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        along = (left.T @ target) ** 2  # squared length of the target along each left singular vector
        rest = max(float(target @ target - along.sum()), 0.0)  # what no feature explains
        alpha = beta = 1.0
        before = 0.0
        for _ in range(MOST_ITERATIONS):
            ratio = alpha / beta
            shrunk = squares / (squares + ratio)
            gamma = float(shrunk.sum())  # effective number of weights
            length = float((squares * along / (squares + ratio) ** 2).sum())  # of the mean weights, squared
            error = float((along * (ratio / (squares + ratio)) ** 2).sum()) + rest
            alpha, beta = gamma / (length + 1e-12), max(count - gamma, 1e-12) / (error + 1e-12)
            if abs(alpha / beta - before) <= TOLERANCE * alpha / beta:
                break
            before = alpha / beta
        ratio = alpha / beta
        length = float((squares * along / (squares + ratio) ** 2).sum())
        error = float((along * (ratio / (squares + ratio)) ** 2).sum()) + rest
        evidence = (
            width / 2 * np.log(alpha)
            + count / 2 * np.log(beta)
            - beta / 2 * error
            - alpha / 2 * length
            - 0.5 * float(np.log(alpha + beta * squares).sum())
            - 0.5 * (width - len(squares)) * np.log(alpha)
            - count / 2 * np.log(2 * np.pi)
        )
        evidences.append(evidence / count)
    return float(np.mean(evidences))


def h_score(features: Features, labels: Labels, *, shrink: bool = True) -> float:
    """H-score: trace of the inverse covariance of the features times the covariance of their class means.

    Bao et al. 2019, "An information-theoretic approach to transferability in task transfer learning", definition 2.
    With `shrink`, the covariance is that of Ledoit and Wolf; without it, the score is meaningless where there are fewer
    images than features: Ibrahim et al. 2021, "Newer is not always better: rethinking transferability metrics",
    section 4.
    """
    from sklearn.covariance import ledoit_wolf

    centred = features.astype(np.float64) - features.mean(axis=0)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = means.T @ means / len(means)
    if not shrink:
        within = centred.T @ centred / len(centred)
        return float(np.trace(np.linalg.pinv(within, rcond=1e-15) @ between))
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    return float(np.trace(np.linalg.solve(covariance, (1 - shrinkage) * between)))


def knn_accuracy(features: Features, labels: Labels, neighbours: int = NEIGHBOURS) -> float:
    """Leave-one-out accuracy of a vote of the nearest neighbours by cosine similarity."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    count = min(neighbours, len(labels) - 1)
    index = np.argpartition(-near, count - 1, axis=1)[:, :count]
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    rows = np.repeat(np.arange(len(labels)), count)
    # where classes have equal numbers of votes, the similarity decides
    np.add.at(votes, (rows, labels[index].ravel()), 1 + 1e-3 * near[rows, index.ravel()])
    return float((votes.argmax(axis=1) == labels).mean())
