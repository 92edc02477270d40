"""The built-in losses. Imports no torch; `functions.py` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.loss import Loss


@hookimpl
def register_losses(register: Register[Loss]) -> None:
    from zoo.loss import Loss  # not at the top: most commands need no loss
    from zoo.option import Option

    gamma = Option(name="gamma", default=2.0, summary="how much less images count that are right", low=0, high=100)
    for name, summary, options in (
        ("cross-entropy", "cross-entropy of the classes", ()),
        ("focal", "cross-entropy in which images that are right count less (Lin et al. 2017)", (gamma,)),
        ("bce", "binary cross-entropy of each class by itself, summed", ()),
    ):
        target = f"zoo_losses.functions:{name.replace('-', '_')}"
        register(Loss(name=name, summary=summary, target=target, options=options, weighted=True))
    sigma = Option(name="sigma", default=1.0, summary="standard deviation of the labels, in classes", low=0.1, high=100)
    register(
        Loss(
            name="ldl",
            summary="divergence from a Gaussian around the label, for ordered classes (Gao et al. 2017)",
            target="zoo_losses.functions:ldl",
            options=(sigma,),
            weighted=True,
            ordered=True,
        )
    )
