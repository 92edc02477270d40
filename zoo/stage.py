"""Stages: the parts of a network that a strategy freezes or trains, in order from input to output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named group of parameters, by their names in `model.named_parameters()`."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """How a network is cut: its stages from input to output and, apart, its head.

    Together they hold every parameter exactly once.
    """

    backbone: str
    stages: tuple[Stage, ...]
    head: Stage

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, input to output, without the head."""
        return tuple(stage.name for stage in self.stages)

    def parameters_of(self, stages: Iterable[str]) -> tuple[str, ...]:
        """Parameter names of the named stages (`head` among them), input to output."""
        wanted = set(stages)
        return tuple(name for stage in (*self.stages, self.head) if stage.name in wanted for name in stage.parameters)


def check_anatomy(anatomy: Anatomy, parameters: Sequence[str]) -> None:
    """Stages and head cover every parameter exactly once, and each name stands once.

    Raises:
        ValueError: they do not; the message names the backbone and the parameters.
    """
    names = [*anatomy.names, anatomy.head.name]
    if len(set(names)) != len(names):
        raise ValueError(f"backbone `{anatomy.backbone}`: stage names repeat: {' '.join(names)}")
    if anatomy.head.name != HEAD or HEAD in anatomy.names:
        raise ValueError(f"backbone `{anatomy.backbone}`: the head, and only the head, is named `{HEAD}`")
    covered = [name for stage in (*anatomy.stages, anatomy.head) for name in stage.parameters]
    twice = sorted({name for name in covered if covered.count(name) > 1}) if len(set(covered)) != len(covered) else []
    missing = sorted(set(parameters) - set(covered))
    unknown = sorted(set(covered) - set(parameters))
    for what, which in (("in two stages", twice), ("in no stage", missing), ("not in the network", unknown)):
        if which:
            raise ValueError(
                f"backbone `{anatomy.backbone}`: {len(which)} parameters {what}, the first is `{which[0]}`"
            )
