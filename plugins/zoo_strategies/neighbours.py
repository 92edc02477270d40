"""The head of the strategy `knn`, which stores training features, and the solver that fills it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import features_width, replace_head
from zoo.solver import Task


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
        return shares.clamp_min(self.FLOOR).log()

    def _load_from_state_dict(self, state: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        """Resize the buffers to the number of stored images in `state`."""
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
    if task.head.count > len(task.labels):
        found["note"] = (
            f"`knn:{task.head.count}`: all {len(task.labels)} training images vote, because there are no more"
        )
    return found
