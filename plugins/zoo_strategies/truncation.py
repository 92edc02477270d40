"""Truncation: the last stages are dropped, and a new head reads what the earlier ones see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zoo import Anatomy, BuildSpec, Group, Phase, Strategy, UsageError
from zoo.stage import HEAD

if TYPE_CHECKING:
    from zoo import Network


@dataclass(frozen=True)
class Truncate(Strategy):
    """Drop the last `stages` for good and train a new head on what is left, frozen; join `+full` to train it all.

    Yosinski et al. 2014, "How transferable are features in deep neural networks?": low-level features are the general
    ones, so that data unlike ImageNet may do better without the last stages. The file is smaller and faster, too.
    """

    name: ClassVar[str] = "truncate"
    summary: ClassVar[str] = "drop the last N stages, train a new head"

    stages: int = 1
    """how many stages are dropped, counted from the head"""

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise UsageError(f"`truncate:{self.stages}` drops no stage; `linear` keeps them all")

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
                steps_if_asked=True,
            ),
        )
