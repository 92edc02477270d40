"""The built-in optimizers. A step is one pass over a parameter and its state (`fused`), in place of ten of them."""

from __future__ import annotations

from typing import Any

import torch


def adamw(groups: list[dict[str, Any]], beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019, "Decoupled weight decay regularization"."""
    return torch.optim.AdamW(groups, betas=(beta1, beta2), eps=eps, fused=True)


def adam(groups: list[dict[str, Any]], beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """Kingma and Ba 2015, "Adam: a method for stochastic optimization"."""
    return torch.optim.Adam(groups, betas=(beta1, beta2), eps=eps, fused=True)


def sgd(groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> torch.optim.Optimizer:
    """Gradient descent; without momentum, Nesterov's is the classical one, and torch refuses it."""
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)
