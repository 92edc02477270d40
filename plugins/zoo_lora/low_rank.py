"""The strategies `lora` and `dora`. This module imports neither torch nor peft; `adapters.py` does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from zoo import Anatomy, Group, Phase, Strategy, UsageError
from zoo.stage import HEAD

if TYPE_CHECKING:
    from zoo import BuildSpec, Network

# Learning rate as a fraction of the head's, like that of pretrained stages. Chosen on splits of a training set: the
# figures are in docs/explanation/strategies.md
LORA_LR = 0.05


@dataclass(frozen=True)
class LowRank(Strategy):
    """Train a low-rank update of every linear and convolutional layer, and the head; the layers themselves stay frozen.

    Hu et al. 2022, "LoRA: low-rank adaptation of large language models". The updates are merged into the layers when
    training ends, so that the network of the run has the size and speed of the backbone.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "train low-rank updates of layers and the head (extra `lora`)"

    rank: int = 8
    """rank of the updates; layers that are not wider than the rank get none"""
    alpha: float = 0.0
    """scale of the updates, which are multiplied by alpha / rank; 0 means a factor of 2"""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"`{self.name}:{self.rank}` needs a rank of 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UsageError(f"`alpha={self.alpha}` is not a finite number of 0 or more")

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        return self._attach(network, spec, magnitudes=False)

    def _attach(self, network: Network, spec: BuildSpec, *, magnitudes: bool) -> Network:
        from zoo_lora.adapters import attach_low_rank

        alpha = self.alpha or 2.0 * self.rank
        return attach_low_rank(network, spec, self.rank, alpha, magnitudes=magnitudes, strategy=self.name)

    def merge(self, network: Network) -> Network:
        from zoo_lora.adapters import merge

        return merge(network)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=with_adapters(anatomy), lr=LORA_LR, only="added"), Group(stages=(HEAD,)))
        return (Phase(name=f"{self.name}:{self.rank}", groups=groups, norm="frozen"),)


@dataclass(frozen=True)
class Decomposed(LowRank):
    """Train a low-rank update of the direction of every layer's weights, their lengths, and the head.

    Liu et al. 2024, "DoRA: weight-decomposed low-rank adaptation": the weights of each output are a length times a
    direction. Lengths train freely and directions as in `lora`; the length that a direction is divided by counts as a
    constant (section 4.3). Both are merged into the layers when training ends.
    """

    name: ClassVar[str] = "dora"
    summary: ClassVar[str] = (
        "train low-rank updates of directions of weights, their lengths and the head (extra `lora`)"
    )

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        return self._attach(network, spec, magnitudes=True)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        (phase,) = super().phases(anatomy)
        adapters, head = phase.groups
        return (replace(phase, groups=(replace(adapters, decays=False), head)),)


def with_adapters(anatomy: Anatomy) -> tuple[str, ...]:
    """Names of the stages that have attached parameters."""
    return tuple(stage.name for stage in anatomy.stages if anatomy.added.intersection(stage.parameters))
