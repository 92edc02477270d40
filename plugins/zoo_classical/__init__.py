"""The classical baseline: colour and gradient histograms with a support vector machine. Extra `classical`.

`hog_color` is a backbone without trainable parameters. `svm` is a strategy that works with any backbone. `zoo train
--backbone hog_color --strategy svm` is the classical baseline; `--backbone resnet50 --strategy svm` trains the support
vector machine on deep features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo import Anatomy, Backbone, Group, Phase, Preprocess, Strategy, Weights, hookimpl
from zoo.hookspecs import Register
from zoo.stage import HEAD

PREPROCESS = Preprocess(resize=146, crop=128, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def always(backbone: Backbone, weights: Weights) -> bool:
    """True: there are no weights to download."""
    return True


@hookimpl
def register_backbones(register: Register[Backbone]) -> None:
    register(
        Backbone(
            name="hog_color",
            summary="histograms of gradients and colours, no network: the classical baseline (extra `classical`)",
            build="zoo_classical.features:build",
            preprocess=PREPROCESS,
            weights=(
                Weights(tag="fixed", preprocess=PREPROCESS, license="Apache-2.0", at_hand="zoo_classical:always"),
            ),
            license="Apache-2.0",
            source="Dalal and Triggs 2005, Histograms of oriented gradients for human detection",
            parameters=0,
            gflops=0.0,
        )
    )


@dataclass(frozen=True)
class SupportVectors(Strategy):
    """A linear support vector machine on frozen features; C is chosen by cross-validation on the training images.

    One class against the rest, with squared hinge loss. Crammer and Singer 2002 compare it with other formulations.
    """

    name: ClassVar[str] = "svm"
    summary: ClassVar[str] = "train a linear support vector machine on frozen features"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="svm", groups=(Group(stages=(HEAD,)),), norm="frozen", solver="zoo_classical.svm:solve"),)


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    register(SupportVectors)
