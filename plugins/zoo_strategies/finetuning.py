"""Fine-tuning strategies: some or all pretrained stages train, at once or one after another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from zoo import Anatomy, Group, Phase, Strategy, UsageError
from zoo.errors import counted
from zoo.stage import HEAD
from zoo.strategy import Norm
from zoo_strategies.extraction import Linear

# Learning rate of pretrained stages, as a fraction of the head's: the head starts at random, they start from a
# solution. Chosen by cross-validation on a training set, like the norm policy below; the figures are in
# docs/explanation/strategies.md
BODY_LR = 0.05

# Pretrained running statistics stay frozen by default, even where affine parameters train. A short run on few images
# would update them only part of the way (timm's EfficientNets by 1 % a step), so that a network would be trained with
# one set of statistics and evaluated with another. `norm=train` updates them.
BODY_NORM: Norm = "frozen"

HEAD_GROUP = Group(stages=(HEAD,))


def _check_count(name: str, count: int, anatomy: Anatomy, instead: str) -> None:
    names = anatomy.names
    if count > len(names):
        raise UsageError(
            f"strategy `{name}:{count}` asks for {counted(count, 'stage')} but `{anatomy.backbone}` has {len(names)}: "
            f"{' '.join(names)}",
            hint=instead.format(len(names)),
        )


@dataclass(frozen=True)
class Partial(Strategy):
    """Freeze the first stages; train the last `stages` stages, at a lower learning rate, and the head.

    Yosinski et al. 2014, "How transferable are features in deep neural networks?": early layers are general, late
    layers are specific to the task.
    """

    name: ClassVar[str] = "partial"
    summary: ClassVar[str] = "train the last N stages and the head"

    stages: int
    """number of stages that train, counted from the head"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`partial:{self.stages}` trains no stage", hint="`linear` trains only the head")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        _check_count("partial", self.stages, anatomy, "`partial:{}` trains all stages, as `full` does")
        groups = (Group(stages=anatomy.names[-self.stages :], lr=BODY_LR), HEAD_GROUP)
        return (Phase(name=f"partial:{self.stages}", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Full(Strategy):
    """Train all stages and the head, pretrained stages at a lower learning rate."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "train every stage and the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names, lr=BODY_LR), HEAD_GROUP)
        return (Phase(name="full", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class Scratch(Strategy):
    """Train all stages and the head from random weights, at one learning rate: the baseline of transfer learning."""

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "train every stage from random weights"
    pretrained: ClassVar[bool] = False

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="scratch", groups=(Group(stages=(*anatomy.names, HEAD)),), norm="train"),)


@dataclass(frozen=True)
class ProbeThenTune(Strategy):
    """Fit the head on frozen features, then train all stages and the head: short for `linear+full`.

    Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution": the
    gradients of a random head distort the features before the head has learnt anything.
    """

    name: ClassVar[str] = "lpft"
    summary: ClassVar[str] = "fit the head, then train every stage and the head: linear+full"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (*Linear().phases(anatomy), *Full().phases(anatomy))


@dataclass(frozen=True)
class Gradual(Strategy):
    """Train the head, then one more stage in each phase, from the last to the first.

    Howard and Ruder 2018, "Universal language model fine-tuning for text classification" (ULMFiT), section 3.3.
    """

    name: ClassVar[str] = "gradual"
    summary: ClassVar[str] = "unfreeze one more stage per phase, from the last to the first"

    steps: int = 0
    """number of phases over which the stages are unfrozen evenly; 0 means one stage per phase"""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UsageError(
                f"`gradual:{self.steps}` needs a number of phases of 0 or more",
                hint="0 unfreezes one stage per phase",
            )

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
    """Train all stages and the head; each stage at `decay` times the learning rate of the next one.

    Howard and Ruder 2018 (ULMFiT), section 3.2, "discriminative fine-tuning"; Clark et al. 2020 (ELECTRA), section 3.1.
    """

    name: ClassVar[str] = "layerdecay"
    summary: ClassVar[str] = "train every stage and the head, early stages at lower learning rates"

    decay: float = 0.75
    """learning rate of a stage, as a fraction of that of the next stage"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.decay) and 0 < self.decay <= 1):
            raise UsageError(f"`layerdecay:{self.decay:g}` needs a decay above 0 and at most 1")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        last = len(anatomy.names) - 1
        groups = tuple(
            Group(stages=(name,), lr=BODY_LR * self.decay ** (last - index)) for index, name in enumerate(anatomy.names)
        )
        return (Phase(name="layerdecay", groups=(*groups, HEAD_GROUP), norm=BODY_NORM),)


@dataclass(frozen=True)
class Surgical(Strategy):
    """Train the first `stages` stages and the head; the stages between stay frozen.

    Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts": for images
    that differ from the pretraining data in noise, blur or camera, but show the same kinds of objects.
    """

    name: ClassVar[str] = "surgical"
    summary: ClassVar[str] = "train the first N stages and the head"

    stages: int = 1
    """number of stages that train, counted from the input"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`surgical:{self.stages}` trains no stage", hint="`linear` trains only the head")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        _check_count("surgical", self.stages, anatomy, "`surgical:{}` trains all stages, as `full` does")
        groups = (Group(stages=anatomy.names[: self.stages], lr=BODY_LR), HEAD_GROUP)
        return (Phase(name=f"surgical:{self.stages}", groups=groups, norm=BODY_NORM),)


@dataclass(frozen=True)
class StartingPoint(Strategy):
    """Train all stages and the head, with a penalty on the distance from the pretrained weights (L2-SP).

    Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional networks", eq. 3. The
    penalty replaces weight decay outside the head.
    """

    name: ClassVar[str] = "l2sp"
    summary: ClassVar[str] = "train every stage and the head, kept close to the pretrained weights"

    alpha: float = 0.01
    """strength of the penalty; Li et al. try 0.001 to 1"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(
                f"`l2sp:{self.alpha:g}` needs a finite strength above 0",
                hint="`full` trains without the penalty",
            )

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        (full,) = Full().phases(anatomy)
        return (replace(full, name="l2sp", pull=self.alpha),)


@dataclass(frozen=True)
class FeatureMaps(Strategy):
    """Fit the head, then train all stages and the head, with a penalty on the distance from pretrained feature maps.

    Li et al. 2019, "DELTA: deep learning transfer using feature map with attention for convolutional networks". Maps
    are the outputs of the last convolution or linear layer of each stage, and distances are relative to the size of a
    stage's maps, which differ by a factor of a hundred between stages. The more the loss on the training images would
    rise without a channel, the more its distance counts; the first phase fits the head that this needs. The penalty
    replaces weight decay outside the head.
    """

    name: ClassVar[str] = "delta"
    summary: ClassVar[str] = "fit the head, then train every stage and the head, features kept close to pretrained ones"

    alpha: float = 1.0
    """strength of the penalty, which is relative to the size of the pretrained feature maps"""
    pull: float = 0.0
    """strength of the penalty of `l2sp` on the weights, beside it; 0 leaves it out"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(
                f"`delta:{self.alpha:g}` needs a finite strength above 0", hint="`lpft` trains without the penalty"
            )
        if not (math.isfinite(self.pull) and self.pull >= 0):
            raise UsageError(f"`pull={self.pull:g}` is not a finite number of 0 or more")

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        (full,) = Full().phases(anatomy)
        tuned = replace(full, name="delta", feature_pull=self.alpha, pull=self.pull)
        return (*Linear().phases(anatomy), tuned)
