"""The strategy `svm`. This module imports neither torch nor scikit-learn; `svm.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo import Anatomy, Group, Phase, Strategy
from zoo.stage import HEAD


@dataclass(frozen=True)
class SupportVectors(Strategy):
    """A linear support vector machine on frozen features; C is chosen by cross-validation on the training images.

    One class against the rest, with squared hinge loss. Crammer and Singer 2002 compare it with other formulations.
    """

    name: ClassVar[str] = "svm"
    summary: ClassVar[str] = "train a linear support vector machine on frozen features"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (
            Phase(
                name="svm",
                groups=(Group(stages=(HEAD,)),),
                norm="frozen",
                solver="zoo_classical.svm:solve",
                keep_solution=True,
            ),
        )
