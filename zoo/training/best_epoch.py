"""The best epoch so far, by the loss on what may be chosen on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Best:
    """The epoch, of a phase or of a run, with the lowest choice loss, and its weights where they are kept."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.epoch = -1
        self.since = -1  # of the last improvement, or of the last lowered rate
        self.state: dict[str, Any] | None = None

    def note(self, loss: float, epoch: int, model: nn.Module | None) -> None:
        if loss < self.loss:
            self.loss, self.epoch, self.since = loss, epoch, epoch
            self.state = copy.deepcopy(model.state_dict()) if model is not None else None

    def waited(self, epoch: int) -> int:
        return epoch - self.since

    def figures(self) -> dict[str, Any]:
        """What `of` reads, beside the weights."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"loss": loss, "epoch": self.epoch, "since": self.since}

    @classmethod
    def of(cls, figures: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], prefix: str) -> Best:
        best = cls()
        best.loss = math.inf if figures["loss"] is None else figures["loss"]
        best.epoch, best.since = figures["epoch"], figures["since"]
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        best.state = state or None
        return best
