"""The head of the strategy `knn`, which stores training features, and the solver that fills it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import features_width, replace_head
from zoo.solver import Task
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo.training.temperature_scaling import fit_temperature

# Images that are enough to fit a temperature, of whose folds no more are held out; and those classified at a time
ENOUGH_HELD_OUT, BLOCK = 5_000, 1_000


class NeighbourHead(nn.Module):
    """Nearest-neighbour classifier: logits are the logarithm of each class's share of the votes.

    The `count` training images with the most similar features (cosine) vote, with weight exp(similarity / temperature):
    Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.
    """

    TEMPERATURE = 0.07  # as in Wu et al. 2018
    FLOOR = 1e-4  # share of a class without votes, so that its logit is finite

    def __init__(self, width: int, classes: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("memory", torch.zeros(0, width))  # M x D, unit length
        self.register_buffer("votes", torch.zeros(0, classes))  # M x classes, one-hot
        self.register_buffer("divisor", torch.ones(()))  # the temperature of the logits, see `divide_logits`
        self.divisor: torch.Tensor
        self.memory: torch.Tensor
        self.votes: torch.Tensor

    def remember(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Store features `(M, D)` and labels `(M,)` of the training images."""
        place = self.memory.device
        self.memory = nn.functional.normalize(features.float(), dim=1).to(place)
        self.votes = nn.functional.one_hot(labels, self.votes.shape[1]).float().to(place)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not len(self.memory):  # before the solver has run, all classes are equal
            return features.new_zeros(len(features), self.votes.shape[1])
        similarity = nn.functional.normalize(features.float(), dim=1) @ self.memory.T  # N x M
        best, which = similarity.topk(min(self.count, len(self.memory)), dim=1)  # N x K
        weights = (best / self.TEMPERATURE).softmax(dim=1)
        shares = (weights.unsqueeze(2) * self.votes[which]).sum(dim=1)  # N x classes
        return shares.clamp_min(self.FLOOR).log() / self.divisor

    def divide_logits(self, temperature: float) -> None:
        """Divide all logits by `temperature` from now on, as temperature scaling does with the last layer of others."""
        self.divisor.mul_(temperature)

    def _load_from_state_dict(self, state: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        """Resize the buffers to the number of stored images in `state`; older weights have no divisor, which is 1."""
        state.setdefault(f"{prefix}divisor", torch.ones(()))
        for name in ("memory", "votes"):
            if f"{prefix}{name}" in state:
                setattr(self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.memory.device))
        super()._load_from_state_dict(state, prefix, *rest)


def adapt(network: Network, classes: int, count: int) -> Network:
    """Replace the head by a nearest-neighbour classifier, which is empty until the solver has run."""
    return replace_head(network, NeighbourHead(features_width(network), classes, count))


def solve(task: Task) -> dict[str, Any]:
    """Store the training features. Accuracy on training images means nothing, as each is its own nearest neighbour."""
    assert isinstance(task.head, NeighbourHead)
    task.head.remember(torch.from_numpy(task.features), torch.from_numpy(task.labels))
    found: dict[str, Any] = {"remembered": len(task.labels), "neighbours": min(task.head.count, len(task.labels))}
    temperature, held = _temperature(task, task.head.count)
    if held:
        found["temperature"] = temperature
    if held < len(task.labels):
        found["held_out"] = held
    if task.head.count > len(task.labels):
        found["note"] = (
            f"`knn:{task.head.count}`: all {len(task.labels)} training images vote, because there are no more"
        )
    return found


def _temperature(task: Task, count: int) -> tuple[float, int]:
    """A temperature fitted on images that are held out in folds, and their number; 0 where none can be."""
    folds, _ = held_out_folds(task.labels, task.seed, task.groups)
    folds = folds[: int(np.searchsorted(np.cumsum([len(held) for _, held in folds]), ENOUGH_HELD_OUT)) + 1]
    if not folds:
        return 1.0, 0
    logits = np.zeros((len(task.labels), task.classes), np.float32)
    for fit, held in folds:
        part = NeighbourHead(task.features.shape[1], task.classes, count)
        part.remember(torch.from_numpy(task.features[fit]), torch.from_numpy(task.labels[fit]))
        with torch.no_grad():
            for start in range(0, len(held), BLOCK):
                some = held[start : start + BLOCK]
                logits[some] = part(torch.from_numpy(task.features[some])).numpy()
    some = held_out(folds)
    return fit_temperature(logits[some], task.labels[some]), len(some)
