"""Strategy: a way to fine-tune, as a plan of phases that the recipe carries out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from zoo.errors import UsageError
from zoo.stage import HEAD, Anatomy

Norm = Literal["frozen", "train", "recalibrate"]
NORMS: tuple[Norm, ...] = ("frozen", "train", "recalibrate")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Stages that train together (`head` is a stage's name here), at `lr` times the phase's rate."""

    stages: tuple[str, ...]
    lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What trains, how fast and for how long, until the next phase begins.

    `norm` is what layers with running statistics do. `frozen`: statistics stay as they are everywhere, also under
    trained affine parameters. `train`: they follow the batches in stages that train. `recalibrate`: they are
    computed anew from the training images once, at the start of the phase, and then stay.
    """

    name: str
    groups: tuple[Group, ...]
    norm: Norm = "train"
    epochs: int | None = None  # None: an equal share of what is left of the run's epochs
    lr: float = 1.0  # times the run's rate

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the stages that train."""
        return tuple(stage for group in self.groups for stage in group.stages)


@dataclass(frozen=True)
class Strategy(ABC):
    """The contract. A subclass is a frozen dataclass; its fields are the options after the colon.

    The first field may be given without its key (`partial:2`). Words in `RESERVED` belong to every phase and may
    not be used as fields.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    pretrained: ClassVar[bool] = True  # False: starts from random weights, whatever is published

    @abstractmethod
    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        """The plan for a network cut like this.

        Raises:
            UsageError: the options do not fit the network (`partial:9` of five stages).
        """


RESERVED = ("epochs", "lr", "norm")


def check_phase(phase: Phase, anatomy: Anatomy, strategy: str) -> None:
    """A phase trains something, names stages that exist, each once, at a finite positive rate.

    Raises:
        UsageError: it does not.
    """
    known = (*anatomy.names, HEAD)
    trained = phase.trains
    if not trained:
        raise UsageError(f"strategy `{strategy}`: phase `{phase.name}` trains nothing")
    for stage in trained:
        if stage not in known:
            raise UsageError(
                f"strategy `{strategy}`: `{anatomy.backbone}` has no stage `{stage}`; it has {' '.join(known)}"
            )
    if len(set(trained)) != len(trained):
        raise UsageError(f"strategy `{strategy}`: a stage of phase `{phase.name}` stands in two groups")
    for rate in (phase.lr, *(group.lr for group in phase.groups)):
        if not math.isfinite(rate) or rate <= 0:
            raise UsageError(f"strategy `{strategy}`: a learning rate of `{rate}` is not a positive number")
    if phase.epochs is not None and phase.epochs < 1:
        raise UsageError(f"strategy `{strategy}`: phase `{phase.name}` has no epochs")
    if phase.norm not in NORMS:
        raise UsageError(f"strategy `{strategy}`: norm `{phase.norm}` is none of {' '.join(NORMS)}")
