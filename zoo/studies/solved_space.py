"""What the search of a study tries for heads that are solved: options of the strategy, and the norm policy."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zoo.config.grammar import ParsedStrategy
from zoo.experiment import Experiment
from zoo.networks.freezing import keeps_statistics

# Of the two policies without steps; the one that a solved phase has by itself comes first
NORMS = ("frozen", "recalibrate")


@dataclass(frozen=True)
class SolvedSpace:
    """The settings of a solved head that are tried.

    Attributes:
        plan: The strategy.
        values: The values of each setting, by name, with the default first: `norm`, and options of the strategy.
    """

    plan: ParsedStrategy
    values: Mapping[str, tuple[Any, ...]]

    def combinations(self, seed: int) -> list[dict[str, Any]]:
        """Every combination of values once: the defaults first, the others in random order."""
        first, *others = [
            dict(zip(self.values, some, strict=True)) for some in itertools.product(*self.values.values())
        ]
        random.Random(seed).shuffle(others)
        return [first, *others]

    def settings(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of an experiment for chosen values: `norm`, and `strategy` with its options."""
        found = {"norm": chosen["norm"]} if "norm" in chosen else {}
        options = {name: value for name, value in chosen.items() if name != "norm"}
        if options:
            (part,) = self.plan.parts
            strategy = replace(part.strategy, **options)
            found["strategy"] = str(ParsedStrategy((replace(part, strategy=strategy),)))
        return found


def solved_space(plan: ParsedStrategy, model: nn.Module, experiment: Experiment, given: Collection[str]) -> SolvedSpace:
    """What can be tried for a strategy whose phases are all solved; `given` are settings that the user gave."""
    values: dict[str, tuple[Any, ...]] = {}
    set_by_user = "norm" in given or experiment.norm is not None or any(part.norm for part in plan.parts)
    if not set_by_user and any(keeps_statistics(module) for module in model.modules()):
        values["norm"] = NORMS
    if len(plan.parts) == 1:
        strategy = plan.parts[0].strategy
        for field in dataclasses.fields(strategy):
            others = strategy.searched.get(field.name, ())
            if others and getattr(strategy, field.name) == field.default:
                values[field.name] = (field.default, *(value for value in others if value != field.default))
    return SolvedSpace(plan, values)
