"""The classical baseline: colour and gradient histograms with a support vector machine. Extra `classical`.

`hog_color` is a backbone without trainable parameters. `svm` is a strategy that works with any backbone. `zoo train
--backbone hog_color --strategy svm` is the classical baseline; `--backbone resnet50 --strategy svm` trains the support
vector machine on deep features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.backbone import Backbone, Weights
    from zoo.strategy import Strategy


def always(backbone: Backbone, weights: Weights) -> bool:
    """True: there are no weights to download."""
    return True


@hookimpl
def register_backbones(register: Register[Backbone]) -> None:
    from zoo.backbone import Backbone, Weights  # not at the top: most commands need no backbone
    from zoo.preprocess import Preprocess

    preprocess = Preprocess(resize=146, crop=128, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    register(
        Backbone(
            name="hog_color",
            summary="histograms of gradients and colours, no network: the classical baseline (extra `classical`)",
            build="zoo_classical.features:build",
            preprocess=preprocess,
            weights=(
                Weights(tag="fixed", preprocess=preprocess, license="Apache-2.0", at_hand="zoo_classical:always"),
            ),
            license="Apache-2.0",
            source="Dalal and Triggs 2005, Histograms of oriented gradients for human detection",
            parameters=0,
            gflops=0.0,
        )
    )


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    from zoo_classical.support_vectors import SupportVectors

    register(SupportVectors)
