"""The built-in strategies. Their plans are data, so that importing this package does not import torch."""

from __future__ import annotations

from zoo import Strategy, hookimpl
from zoo.hookspecs import Register
from zoo_strategies.extraction import Linear, Neighbours
from zoo_strategies.few import BiasOnly, NormOnly
from zoo_strategies.finetuning import (
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

STRATEGIES: tuple[type[Strategy], ...] = (
    Linear,
    Neighbours,
    Partial,
    Full,
    ProbeThenTune,
    Gradual,
    LayerDecay,
    StartingPoint,
    Surgical,
    Truncate,
    NormOnly,
    BiasOnly,
    Scratch,
)


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    for strategy in STRATEGIES:
        register(strategy)
