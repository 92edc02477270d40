"""Training state saved in a checkpoint: position, running totals of the epoch, and the best epochs so far."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class Position:
    """The position of training: everything before it is done. All counts start at 0."""

    phase: int = 0
    epoch: int = 0  # over all phases
    batch: int = 0  # within the epoch
    step: int = 0  # optimiser steps taken, over all phases
    records: int = 0  # lines written to the history
    lowered: float = 1.0  # factor of the learning rate, set by a schedule that follows the validation loss


@dataclass
class RunningTotals:
    """Totals over the batches of the current epoch, from which its record is computed."""

    loss: float = 0.0  # summed over images
    right: int = 0  # images classified correctly
    seen: int = 0  # images
    data: float = 0.0  # seconds spent on drawing views
    prefix: float = 0.0  # seconds spent on computing the frozen prefix
    store: float = 0.0  # seconds spent on reading and writing cached outputs
    total: float = 0.0  # seconds


class BestEpoch:
    """The epoch with the lowest validation loss, of a phase or of the run, with its weights where they are needed."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.epoch = -1
        self.state: dict[str, Any] | None = None

    def note(self, loss: float, epoch: int, model: nn.Module | None) -> None:
        """Take an epoch into account; the weights of `model`, if given, are copied when it is the best."""
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.state = copy.deepcopy(model.state_dict()) if model is not None else None

    def waited(self, epoch: int, first: int) -> int:
        """Epochs up to `epoch` without a lower loss, which early stopping counts.

        Args:
            epoch: the epoch that has just ended.
            first: the first epoch of the phase; it counts as the best one while no loss was finite.
        """
        return epoch - max(self.epoch, first)

    def to_json(self) -> dict[str, Any]:
        """Everything but the weights."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"loss": loss, "epoch": self.epoch}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], state: dict[str, torch.Tensor]) -> BestEpoch:
        """The inverse of `to_json`, with the weights `state` (empty: none were kept)."""
        best = cls()
        best.loss = math.inf if data["loss"] is None else data["loss"]
        best.epoch = data["epoch"]
        best.state = state or None
        return best


# Prefixes of tensor names in a checkpoint
BEST_OF_PHASE, BEST_OF_RUN = "best-of-phase/", "best-of-run/"


@dataclass
class TrainingState:
    """Everything that changes as a run trains, besides weights and optimiser."""

    position: Position = field(default_factory=Position)
    totals: RunningTotals = field(default_factory=RunningTotals)
    best_of_phase: BestEpoch = field(default_factory=BestEpoch)  # used by early stopping
    best_of_run: BestEpoch = field(default_factory=BestEpoch)
    losses: list[float] = field(default_factory=list)  # of validation, after each epoch of the phase

    def to_json(self) -> dict[str, Any]:
        """JSON values; the weights of the best epochs are in `tensors`."""
        return {
            "position": dataclasses.asdict(self.position),
            "totals": dataclasses.asdict(self.totals),
            "best_of_phase": self.best_of_phase.to_json(),
            "best_of_run": self.best_of_run.to_json(),
            "losses": [loss if math.isfinite(loss) else repr(loss) for loss in self.losses],  # JSON has no NaN
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights of the best epochs, by prefixed name."""
        return {
            f"{prefix}{name}": value
            for prefix, best in ((BEST_OF_PHASE, self.best_of_phase), (BEST_OF_RUN, self.best_of_run))
            for name, value in (best.state or {}).items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> TrainingState:
        """The inverse of `to_json` and `tensors`."""
        return cls(
            position=Position(**data["position"]),
            totals=RunningTotals(**data["totals"]),
            best_of_phase=BestEpoch.from_json(data["best_of_phase"], _under(tensors, BEST_OF_PHASE)),
            best_of_run=BestEpoch.from_json(data["best_of_run"], _under(tensors, BEST_OF_RUN)),
            losses=[float(loss) for loss in data["losses"]],
        )


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
