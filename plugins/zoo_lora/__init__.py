"""LoRA, DoRA and IA3 by the library peft (extra `lora`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.strategy import Strategy


@hookimpl
def register_strategies(register: Register[type[Strategy]]) -> None:
    from zoo_lora.low_rank import Decomposed, LowRank  # not at the top: most commands need no strategy
    from zoo_lora.scales import Scales

    for strategy in (LowRank, Decomposed, Scales):
        register(strategy)
