"""Where a run stands, and what the record of its epoch is made of so far: both go into its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Place:
    """Where a run stands; everything before it is done. All count from 0."""

    phase: int = 0
    epoch: int = 0  # of the run
    batch: int = 0  # of the epoch
    step: int = 0  # of the run: steps of the optimiser taken
    records: int = 0  # lines of the history written
    lowered: float = 1.0  # the rate's factor by `plateau`


@dataclass
class Sums:
    """What an epoch's record is made of, so far."""

    loss: float = 0.0
    right: int = 0
    seen: int = 0
    data: float = 0.0  # seconds: views drawn
    prefix: float = 0.0  # computing what is frozen, where the network is cut
    store: float = 0.0  # reading and writing that
    total: float = 0.0
