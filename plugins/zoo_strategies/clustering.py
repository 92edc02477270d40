"""Solver of the strategy `kmeans`: a head from clusters that were found without labels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.errors import ZooError
from zoo.solver import Task
from zoo.training.temperature_scaling import fit_temperature
from zoo_strategies.softmax_fit import Standardisation, one_thread

STARTS = 10  # of k-means, of which the one with the closest clusters is kept


def solve(task: Task) -> dict[str, Any]:
    """Find as many clusters as there are classes, match each to a class, and let each image be of the nearest cluster.

    K-means (Lloyd 1982, "Least squares quantization in PCM") with the starts of k-means++ (Arthur and Vassilvitskii
    2007) on standardised features. Labels are used for the matching alone: one class for each cluster, so that most
    training images are right (Kuhn 1955, "The Hungarian method for the assignment problem"), the accuracy by which
    clusterings are usually compared.

    The logits of an image are its negated squared distances to the clusters; what all classes have in common is left
    out, so that the head stays one linear layer. They are divided by a temperature that is fitted on the training
    images, whose labels had no part in the distances.

    Raises:
        ZooError: there are fewer images than classes, or the head is not one linear layer.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits

    head = task.head
    if not isinstance(head, nn.Linear):
        raise ZooError("`kmeans` computes a linear head, and the network has another", hint="leave `head=` out")
    if len(task.labels) < task.classes:
        raise ZooError(
            f"`kmeans` finds a cluster for each of {task.classes} classes, and there are {len(task.labels)} training "
            "images",
            hint="add images, or merge classes",
        )
    scale = Standardisation.of(task.features)
    inputs = scale.apply(task.features).astype(np.float64)
    with threadpool_limits(1), warnings.catch_warnings():  # sums of several threads have other last bits
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal images, which the note below says
        fitted = KMeans(task.classes, n_init=STARTS, random_state=task.seed).fit(inputs)
    counts = np.zeros((task.classes, task.classes), dtype=np.int64)  # clusters x classes
    np.add.at(counts, (fitted.labels_, task.labels), 1)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    centres = np.empty_like(fitted.cluster_centers_)
    centres[classes] = fitted.cluster_centers_[clusters]
    with one_thread():
        logits = inputs @ centres.T - np.square(centres).sum(1) / 2
        spread = max(float((logits - logits.mean(1, keepdims=True)).std()), 1e-12)
        divisor = spread * fit_temperature(logits / spread, task.labels)
        weight = centres / divisor / scale.deviation
        bias = -np.square(centres).sum(1) / (2 * divisor) - weight @ scale.mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(bias - bias.mean()))
    found: dict[str, Any] = {
        "solver": "k-means",
        "clusters": task.classes,
        "iterations": int(fitted.n_iter_),
        "matched": round(float(counts[clusters, classes].sum() / len(inputs)), 6),
        "adjusted_rand_index": round(float(adjusted_rand_score(task.labels, fitted.labels_)), 6),
    }
    empty = task.classes - int((counts.sum(1) > 0).sum())
    if empty:
        found["note"] = f"{empty} of {task.classes} clusters are empty, since so many images have equal features"
    return found
