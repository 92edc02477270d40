"""Parameter-efficient strategies: in every stage, only parameters of one kind train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo import Anatomy, Group, Phase, Strategy
from zoo.stage import HEAD

# A small number of parameters needs a higher learning rate, so they train at that of the head. Chosen on splits of a
# training set: the figures are in docs/explanation/strategies.md
FEW_LR = 1.0


@dataclass(frozen=True)
class NormOnly(Strategy):
    """Train the scales and shifts of normalisation layers, and the head.

    Frankle et al. 2021, "Training BatchNorm and only BatchNorm".
    """

    name: ClassVar[str] = "norm"
    summary: ClassVar[str] = "train normalisation parameters and the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names, lr=FEW_LR, only="norms"), Group(stages=(HEAD,)))
        return (Phase(name="norm", groups=groups, norm="frozen"),)


@dataclass(frozen=True)
class BiasOnly(Strategy):
    """Train the biases, including those of normalisation layers, and the head.

    Ben Zaken et al. 2022, "BitFit: simple parameter-efficient fine-tuning for transformer-based
    masked language-models".
    """

    name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "train biases and the head"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=anatomy.names, lr=FEW_LR, only="biases"), Group(stages=(HEAD,)))
        return (Phase(name="bitfit", groups=groups, norm="frozen"),)
