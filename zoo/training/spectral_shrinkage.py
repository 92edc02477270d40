"""Batch spectral shrinkage: a penalty on the smallest singular value of the features of a batch.

Chen et al. 2019, "Catastrophic forgetting meets negative transfer: batch spectral shrinkage for safe transfer
learning". Features in the direction of small singular values transfer badly; the penalty suppresses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Singular values that are shrunk, counted from the smallest: the authors' choice
SHRUNK = 1


@contextmanager
def watched_features(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Inside the block, keep the features `(N, D)` that enter a head each time."""
    features: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        features.append(inputs[0])

    handle = head.register_forward_pre_hook(keep)
    try:
        yield features
    finally:
        handle.remove()


def spectral_penalty(features: torch.Tensor) -> torch.Tensor:
    """The square of the smallest singular value of the features `(N, D)`; 0 of one image, which has no spectrum."""
    if len(features) < 2:
        return features.new_zeros((), dtype=torch.float32)
    values: torch.Tensor = torch.linalg.svdvals(features.float())
    return values[-SHRUNK:].square().sum()
