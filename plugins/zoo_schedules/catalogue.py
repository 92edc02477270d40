"""The catalogue of built-in learning-rate schedules."""

from __future__ import annotations

from zoo.option import Option
from zoo.schedule import Schedule

_END = Option(name="end", default=0.0, summary="the last rate, as a share of the highest", low=0, high=1)
_FACTOR = Option(name="factor", default=0.1, summary="what the rate is multiplied by", low=0, high=1)

SCHEDULES = (
    Schedule(
        name="one-cycle",
        summary="up by half a cosine and down by another (Smith and Topin 2018), as torch's OneCycleLR",
        target="zoo_schedules.functions:one_cycle",
        rise="zoo_schedules.functions:one_cycle_rise",
    ),
    Schedule(
        name="cosine",
        summary="down by half a cosine (Loshchilov and Hutter 2017)",
        target="zoo_schedules.functions:cosine",
        options=(_END,),
    ),
    Schedule(
        name="linear", summary="down by a straight line", target="zoo_schedules.functions:linear", options=(_END,)
    ),
    Schedule(
        name="step",
        summary="down by a factor after each part of the phase (He et al. 2016)",
        target="zoo_schedules.functions:step",
        options=(
            Option(name="parts", default=3, summary="parts of equal length", low=1, high=1000),
            _FACTOR,
        ),
    ),
    Schedule(
        name="plateau",
        summary="down by a factor when the validation loss stops falling",
        target="zoo_schedules.functions:constant",
        options=(
            Option(name="epochs", default=2, summary="epochs at a rate without a lower loss", low=1, high=10_000),
            _FACTOR,
        ),
        lowering="zoo_schedules.functions:plateau_lowering",
    ),
    Schedule(name="constant", summary="always the highest rate", target="zoo_schedules.functions:constant"),
)
