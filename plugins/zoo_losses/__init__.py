"""The built-in losses. Imports no torch; `functions.py` does."""

from __future__ import annotations

from zoo.hookspecs import Register, hookimpl
from zoo.loss import Loss
from zoo.option import Option

_GAMMA = Option(name="gamma", default=2.0, summary="how much less images count that are right", low=0, high=100)


@hookimpl
def register_losses(register: Register[Loss]) -> None:
    for name, summary, options in (
        ("cross-entropy", "cross-entropy of the classes", ()),
        ("focal", "cross-entropy in which images that are right count less (Lin et al. 2017)", (_GAMMA,)),
        ("bce", "binary cross-entropy of each class by itself, summed", ()),
    ):
        target = f"zoo_losses.functions:{name.replace('-', '_')}"
        register(Loss(name=name, summary=summary, target=target, options=options, weighted=True))
