"""The built-in strategies. Their plans are data, so that importing them does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.strategy import Strategy


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    from zoo_strategies.extraction import Clusters, Linear, Neighbours  # not at the top: most commands need no strategy
    from zoo_strategies.few import BiasOnly, NormOnly
    from zoo_strategies.finetuning import (
        FeatureMaps,
        Full,
        Gradual,
        LayerDecay,
        Partial,
        ProbeThenTune,
        Scratch,
        StartingPoint,
        Surgical,
    )
    from zoo_strategies.truncation import Truncate

    for strategy in (
        Linear,
        Neighbours,
        Clusters,
        Partial,
        Full,
        ProbeThenTune,
        Gradual,
        LayerDecay,
        StartingPoint,
        FeatureMaps,
        Surgical,
        Truncate,
        NormOnly,
        BiasOnly,
        Scratch,
    ):
        register(strategy)
