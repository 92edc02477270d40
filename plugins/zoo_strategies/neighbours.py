"""Nearest neighbours as a head, and the solver that fills it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import features_width, replace_head
from zoo.solver import Task


class Neighbours(nn.Module):
    """A head that remembers: logits are the log of the share of votes of the nearest training images.

    Votes of the `count` most similar features (cosine), each weighted by exp(similarity / temperature): Wu et al. 2018,
    "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.
    """

    # Wu et al. 2018 use 0.07
    TEMPERATURE = 0.07
    # A class without a vote gets this share, so that its logit is finite
    FLOOR = 1e-4

    def __init__(self, width: int, classes: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("memory", torch.zeros(0, width))  # M x D, of length 1
        self.register_buffer("votes", torch.zeros(0, classes))  # M x classes, one-hot
        self.memory: torch.Tensor
        self.votes: torch.Tensor

    def remember(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep features `(M, D)` and labels `(M,)`."""
        place = self.memory.device
        self.memory = nn.functional.normalize(features.float(), dim=1).to(place)
        self.votes = nn.functional.one_hot(labels, self.votes.shape[1]).float().to(place)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not len(self.memory):  # before it is solved: every class alike
            return features.new_zeros(len(features), self.votes.shape[1])
        similarity = nn.functional.normalize(features.float(), dim=1) @ self.memory.T  # N x M
        best, which = similarity.topk(min(self.count, len(self.memory)), dim=1)  # N x K
        weights = (best / self.TEMPERATURE).softmax(dim=1)
        shares = (weights.unsqueeze(2) * self.votes[which]).sum(dim=1)  # N x classes
        return shares.clamp_min(self.FLOOR).log()

    def _load_from_state_dict(self, state: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        """Take as many remembered images as the weights hold."""
        for name in ("memory", "votes"):
            if f"{prefix}{name}" in state:
                setattr(self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.memory.device))
        super()._load_from_state_dict(state, prefix, *rest)


def adapt(network: Network, classes: int, count: int) -> Network:
    """The network with a head of `count` neighbours, which is empty until it is solved."""
    return replace_head(network, Neighbours(features_width(network), classes, count))


def solve(task: Task) -> dict[str, Any]:
    """Remember the training images. Each is its own nearest neighbour, so that accuracy on them tells nothing."""
    assert isinstance(task.head, Neighbours)
    task.head.remember(torch.from_numpy(task.features), torch.from_numpy(task.labels))
    found: dict[str, Any] = {"remembered": len(task.labels), "neighbours": min(task.head.count, len(task.labels))}
    if task.head.count > len(task.labels):
        found["note"] = f"`knn:{task.head.count}`: all {len(task.labels)} training images vote, there are no more"
    return found
