"""Truncation: the last stages are dropped, and a new head is trained on the features of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zoo import Anatomy, Group, Phase, Strategy, UsageError
from zoo.stage import HEAD

if TYPE_CHECKING:
    from zoo import BuildSpec, Network


@dataclass(frozen=True)
class Truncate(Strategy):
    """Drop the last `stages` stages and train a new head on the others, which stay frozen; add `+full` to train them.

    Yosinski et al. 2014, "How transferable are features in deep neural networks?": features of early stages are more
    general, so data unlike ImageNet may be classified better without the last stages. The network also becomes smaller
    and faster.
    """

    name: ClassVar[str] = "truncate"
    summary: ClassVar[str] = "drop the last N stages, train a new head"

    stages: int = 1
    """number of stages to drop, counted from the head"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`truncate:{self.stages}` drops no stage", hint="`linear` keeps all stages")

    @property
    def opens(self) -> str:
        return "it drops stages of the network"

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        from zoo_strategies.cutting import truncate

        return truncate(network, spec, self.stages)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (
            Phase(
                name=f"truncate:{self.stages}",
                groups=(Group(stages=(HEAD,)),),
                norm="frozen",
                solver="zoo_strategies.logistic:solve",
                keep_solution=True,
                steps_if_asked=True,
            ),
        )
