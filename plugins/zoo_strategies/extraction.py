"""Feature extraction: strategies that leave the backbone unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zoo import Anatomy, Group, Phase, Strategy, UsageError
from zoo.stage import HEAD

if TYPE_CHECKING:
    from zoo import BuildSpec, Network


@dataclass(frozen=True)
class Linear(Strategy):
    """Train a new head on the features of the frozen backbone; running statistics are frozen too.

    Razavian et al. 2014, "CNN features off-the-shelf: an astounding baseline for recognition".
    """

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "train the head on frozen features"

    head: str = "linear"
    """type of the head: `linear`, or `mlp:WIDTH` with a hidden layer before the classifier"""
    solver: Literal["auto", "lbfgs", "sgd"] = "auto"
    """how the head is trained. `lbfgs`: logistic regression on the features, its penalty chosen by cross-validation on
    the training images. `sgd`: optimiser steps on augmented images. `auto`: `lbfgs`, or `sgd` if another setting, such
    as --epochs or --augment, applies to steps only"""

    def __post_init__(self) -> None:
        if self.head != "linear" and not re.fullmatch(r"mlp:[1-9][0-9]{0,4}", self.head):
            raise UsageError(f"`head={self.head}` is neither `linear` nor `mlp:WIDTH`, such as `mlp:256`")
        if self.head != "linear" and self.solver == "lbfgs":
            raise UsageError("`solver=lbfgs` trains a linear head only", hint="pass `solver=sgd` for a hidden layer")

    @property
    def opens(self) -> str:
        return "" if self.head == "linear" else "it replaces the head"

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        if self.head == "linear":
            return network
        from zoo_strategies.logistic import adapt

        return adapt(network, spec.classes, int(self.head.partition(":")[2]), spec.dropout or 0.0)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        solved = self.solver != "sgd" and self.head == "linear"
        return (
            Phase(
                name="linear",
                groups=(Group(stages=(HEAD,)),),
                norm="frozen",
                solver="zoo_strategies.logistic:solve" if solved else None,
                keep_solution=solved,
                steps_if_asked=self.solver == "auto",
            ),
        )


@dataclass(frozen=True)
class Neighbours(Strategy):
    """Classify an image by a vote of the training images with the most similar features; nothing is trained.

    Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.
    """

    name: ClassVar[str] = "knn"
    summary: ClassVar[str] = "classify by a vote of the K most similar training images; trains nothing"
    alone: ClassVar[str] = "it trains nothing"
    searched: ClassVar[Mapping[str, tuple[int | float | str, ...]]] = {"neighbours": (1, 3, 5, 10, 20, 50)}

    neighbours: int = 10
    """number of training images that vote"""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UsageError(f"`knn:{self.neighbours}` needs a number of neighbours of 1 or more")

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        from zoo_strategies.neighbours import adapt

        return adapt(network, spec.classes, self.neighbours)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        solver = "zoo_strategies.neighbours:solve"
        return (Phase(name=f"knn:{self.neighbours}", groups=(), norm="frozen", solver=solver),)


@dataclass(frozen=True)
class Clusters(Strategy):
    """Cluster the features of the frozen backbone without labels; labels only name the clusters.

    Shows how far the features separate the classes by themselves: k-means with as many clusters as classes, and the
    one-to-one assignment of clusters to classes with which most training images are right.
    """

    name: ClassVar[str] = "kmeans"
    summary: ClassVar[str] = "cluster frozen features without labels, which only name the clusters"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        solver = "zoo_strategies.clustering:solve"
        return (
            Phase(name="kmeans", groups=(Group(stages=(HEAD,)),), norm="frozen", solver=solver, keep_solution=True),
        )
