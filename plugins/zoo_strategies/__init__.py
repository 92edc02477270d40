"""The built-in ways to fine-tune. Plans are data; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo import Anatomy, Group, Phase, Strategy, UsageError, hookimpl
from zoo.hookspecs import Register
from zoo.stage import HEAD
from zoo.strategy import Norm

# Pretrained stages move at this share of the head's rate: the head starts at random, they start from a solution.
# Chosen by cross-validation inside a training split, as is the norm policy below: docs/training.md has the figures.
BODY_LR = 0.05

# Pretrained statistics stay by default, under affine parameters that train: a short run on few images moves them only
# part of the way (timm's EfficientNets by 1 % a step), so that a network is trained with one set and evaluated with
# another. `norm=train` is one word.
BODY_NORM: Norm = "frozen"


@dataclass(frozen=True)
class Linear(Strategy):
    """Feature extraction: the backbone is frozen, statistics included, and a new head is trained."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "train the head on frozen features"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="linear", groups=(Group(stages=(HEAD,)),), norm="frozen"),)


@dataclass(frozen=True)
class Partial(Strategy):
    """Freeze the first stages; train the last `stages` of them at a lower rate, and the head.

    Yosinski et al. 2014, "How transferable are features in deep neural networks?": early layers are general, late
    layers are specific to the task.
    """

    name: ClassVar[str] = "partial"
    summary: ClassVar[str] = "train the last N stages and the head"

    stages: int

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`partial:{self.stages}` trains no stage; `linear` trains the head alone")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        names = anatomy.names
        if self.stages > len(names):
            raise UsageError(
                f"strategy `partial:{self.stages}` asks for {self.stages} stages but `{anatomy.backbone}` has "
                f"{len(names)}: {' '.join(names)}",
                hint=f"`partial:{len(names)}` trains them all, as `full` does",
            )
        groups = (Group(stages=names[-self.stages :], lr=BODY_LR), Group(stages=(HEAD,)))
        return (Phase(name=f"partial:{self.stages}", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Full(Strategy):
    """Train everything: the head at the full rate, pretrained stages at a lower one."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "train every stage and the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names, lr=BODY_LR), Group(stages=(HEAD,)))
        return (Phase(name="full", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Scratch(Strategy):
    """Train everything from random weights at one rate: what transfer has to beat."""

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "train every stage from random weights"
    pretrained: ClassVar[bool] = False

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="scratch", groups=(Group(stages=(*anatomy.names, HEAD)),), norm="train"),)


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    for strategy in (Linear, Partial, Full, Scratch):
        register(strategy)
