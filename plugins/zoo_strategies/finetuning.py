"""Fine-tuning: pretrained stages train too, all or some, at once or one after another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from zoo import Anatomy, Group, Phase, Strategy, UsageError
from zoo.stage import HEAD
from zoo.strategy import Norm
from zoo_strategies.extraction import Linear

# Pretrained stages move at this share of the head's rate: the head starts at random, they start from a solution.
# Chosen by cross-validation inside a training split, as is the norm policy below: see docs/explanation/strategies.md
BODY_LR = 0.05

# Pretrained statistics stay by default, under affine parameters that train: a short run on few images moves them only
# part of the way (timm's EfficientNets by 1 % a step), so that a network is trained with one set and evaluated with
# another. `norm=train` is one word.
BODY_NORM: Norm = "frozen"

HEAD_GROUP = Group(stages=(HEAD,))


def _check_count(name: str, count: int, anatomy: Anatomy, instead: str) -> None:
    names = anatomy.names
    if count > len(names):
        raise UsageError(
            f"strategy `{name}:{count}` asks for {count} stages but `{anatomy.backbone}` has {len(names)}: "
            f"{' '.join(names)}",
            hint=instead.format(len(names)),
        )


@dataclass(frozen=True)
class Partial(Strategy):
    """Freeze the first stages; train the last `stages` of them at a lower rate, and the head.

    Yosinski et al. 2014, "How transferable are features in deep neural networks?": early layers are general, late
    layers are specific to the task.
    """

    name: ClassVar[str] = "partial"
    summary: ClassVar[str] = "train the last N stages and the head"

    stages: int
    """how many stages train, counted from the head"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`partial:{self.stages}` trains no stage; `linear` trains the head alone")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        _check_count("partial", self.stages, anatomy, "`partial:{}` trains them all, as `full` does")
        groups = (Group(stages=anatomy.names[-self.stages :], lr=BODY_LR), HEAD_GROUP)
        return (Phase(name=f"partial:{self.stages}", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Full(Strategy):
    """Train everything: the head at the full rate, pretrained stages at a lower one."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "train every stage and the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names, lr=BODY_LR), HEAD_GROUP)
        return (Phase(name="full", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Scratch(Strategy):
    """Train everything from random weights at one rate: what transfer has to beat."""

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "train every stage from random weights"
    pretrained: ClassVar[bool] = False

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="scratch", groups=(Group(stages=(*anatomy.names, HEAD)),), norm="train"),)


@dataclass(frozen=True)
class ProbeThenTune(Strategy):
    """Solve the head on frozen features, then train everything: a name for `linear+full`.

    Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution": a head that
    starts at random pulls the features out of shape before it has learnt anything.
    """

    name: ClassVar[str] = "lpft"
    summary: ClassVar[str] = "solve the head, then train everything: linear+full"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (*Linear().phases(anatomy), *Full().phases(anatomy))


@dataclass(frozen=True)
class Gradual(Strategy):
    """Train the head, then one more stage with every phase, from the top.

    Howard and Ruder 2018, "Universal language model fine-tuning for text classification" (ULMFiT), section 3.3.
    """

    name: ClassVar[str] = "gradual"
    summary: ClassVar[str] = "unfreeze from the top, one stage per phase"

    steps: int = 0
    """phases in which all stages are unfrozen, as evenly as they divide; 0: one stage per phase"""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UsageError(f"`gradual:{self.steps}` is no number of phases; 0 is one stage per phase")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        names = anatomy.names
        _check_count("gradual", self.steps, anatomy, "`gradual:{}`, or `gradual`, unfreezes one stage per phase")
        steps = self.steps or len(names)
        phases = [Phase(name="gradual head", groups=(HEAD_GROUP,), norm=BODY_NORM)]
        for step in range(1, steps + 1):
            first = len(names) - len(names) * step // steps
            groups = (Group(stages=names[first:], lr=BODY_LR), HEAD_GROUP)
            phases.append(Phase(name=f"gradual {names[first]}", groups=groups, norm=BODY_NORM))
        return tuple(phases)


@dataclass(frozen=True)
class LayerDecay(Strategy):
    """Train everything; every stage at `decay` times the rate of the one above it.

    Howard and Ruder 2018 (ULMFiT), section 3.2, "discriminative fine-tuning"; Clark et al. 2020 (ELECTRA), section 3.1.
    """

    name: ClassVar[str] = "layerdecay"
    summary: ClassVar[str] = "train everything, lower stages more slowly"

    decay: float = 0.75
    """rate of a stage as a share of that of the stage above it"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.decay) and 0 < self.decay <= 1):
            raise UsageError(f"`layerdecay:{self.decay}` is not above 0 and up to 1")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        last = len(anatomy.names) - 1
        groups = tuple(
            Group(stages=(name,), lr=BODY_LR * self.decay ** (last - index)) for index, name in enumerate(anatomy.names)
        )
        return (Phase(name="layerdecay", groups=(*groups, HEAD_GROUP), norm=BODY_NORM),)


@dataclass(frozen=True)
class Surgical(Strategy):
    """Train the first `stages` only, and the new head; what lies between stays as it is.

    Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts": for photographs that look
    unlike (noise, blur, another camera) while they show the like.
    """

    name: ClassVar[str] = "surgical"
    summary: ClassVar[str] = "train the first N stages and the head"

    stages: int = 1
    """how many stages train, counted from the input"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`surgical:{self.stages}` trains no stage; `linear` trains the head alone")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        _check_count("surgical", self.stages, anatomy, "`surgical:{}` trains them all, as `full` does")
        groups = (Group(stages=anatomy.names[: self.stages], lr=BODY_LR), HEAD_GROUP)
        return (Phase(name=f"surgical:{self.stages}", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class StartingPoint(Strategy):
    """Train everything, pulled towards the published weights rather than towards zero.

    Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional networks", L2-SP, eq. 3. The pull
    takes the place of the weight decay outside the head.
    """

    name: ClassVar[str] = "l2sp"
    summary: ClassVar[str] = "train everything, pulled towards the start"

    alpha: float = 0.01
    """strength of the pull; Li et al. try 0.001 to 1"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"`l2sp:{self.alpha}` is no positive strength; `full` has none")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        (full,) = Full().phases(anatomy)
        return (replace(full, name="l2sp", pull=self.alpha),)
