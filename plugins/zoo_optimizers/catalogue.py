"""The catalogue of built-in optimizers. Imports no torch; `fused.py` does."""

from __future__ import annotations

from zoo.optimizer import Optimizer
from zoo.option import Option

# The defaults are torch's
_BETAS = (
    Option(name="beta1", default=0.9, summary="share of the mean gradient that a step keeps", low=0, high=0.99999),
    Option(name="beta2", default=0.999, summary="share of the mean squared gradient", low=0, high=0.99999),
    Option(name="eps", default=1e-8, summary="least divisor of a step", low=0, high=1),
)
_MOMENTUM = Option(
    name="momentum", default=0.9, summary="share of a step that the next one keeps", low=0, high=0.9999999
)

OPTIMIZERS = (
    Optimizer(
        name="adamw",
        summary="Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
        target="zoo_optimizers.fused:adamw",
        options=_BETAS,
    ),
    Optimizer(
        name="adam",
        summary="Adam, whose weight decay is added to the gradient (Kingma and Ba 2015)",
        target="zoo_optimizers.fused:adam",
        options=_BETAS,
    ),
    Optimizer(
        name="sgd",
        summary="gradient descent with Nesterov momentum",
        target="zoo_optimizers.fused:sgd",
        options=(
            _MOMENTUM,
            Option(name="nesterov", default=True, summary="Nesterov's momentum; False: the classical one"),
        ),
    ),
)
