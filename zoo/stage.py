"""Stages: the parts of a network that a strategy freezes or trains, in order from input to output."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from zoo.errors import counted

HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named part of a network.

    Attributes:
        name: Name that strategies use, unique within the network.
        parameters: Names of its parameters in `model.named_parameters()`.
    """

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """How a network is divided: stages and a head, which together hold every parameter exactly once.

    Attributes:
        backbone: Name of the backbone, for messages.
        stages: Stages from input to output, without the head.
        head: The stage that computes the logits; its name is `head`.
        added: Names of the parameters that a strategy attached for training only, such as adapters.
    """

    backbone: str
    stages: tuple[Stage, ...]
    head: Stage
    added: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages from input to output, without the head."""
        return tuple(stage.name for stage in self.stages)

    def parameters_of(self, stages: Iterable[str]) -> tuple[str, ...]:
        """Names of the parameters of the named stages, from input to output; `head` is a name like the others."""
        wanted = set(stages)
        return tuple(name for stage in (*self.stages, self.head) if stage.name in wanted for name in stage.parameters)


def group_parameters(parameters: Iterable[str], patterns: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Group parameter names by the first pattern that matches their start, and by the numbers that it captures.

    The patterns `["conv1|bn1", r"layer(\\d+)"]` divide a ResNet.

    Returns:
        The groups, in the order of the patterns and then of the captured numbers, and the names that no pattern
        matches.
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    groups: dict[tuple[int, ...], list[str]] = {}
    rest = []
    for name in parameters:
        for rank, pattern in enumerate(compiled):
            found = pattern.match(name)
            if found:
                key = (rank, *(int(number) for number in found.groups() if number is not None))
                groups.setdefault(key, []).append(name)
                break
        else:
            rest.append(name)
    return [groups[key] for key in sorted(groups)], rest


def cut(
    backbone: str,
    parameters: Sequence[str],
    *,
    groups: Sequence[Sequence[str]],
    head: Collection[str],
    norms: Collection[str] = (),
) -> Anatomy:
    """Divide a network into stages. All rules for stages are here:

    - The head is the layer, or layers, whose width is the number of classes. Hidden layers of a classifier (the two
      wide ones of VGG) are pretrained and join the last stage.
    - Parameters in no group (a trailing norm, a final convolution, attention pooling) join the last stage.
    - A group of only `norms` joins the stage before it: a normalisation belongs to the layer that it follows.
    - The first stage is called `stem`. Every other one is named after the highest module that it contains completely.

    Args:
        backbone: Name of the backbone.
        parameters: Names of all parameters, in the network's order.
        groups: Groups of names from input to output. A name is in one group at most.
        head: Names of the head's parameters.
        norms: Names of the parameters of normalisation layers.
    """
    apart, normal = set(head), set(norms)
    stages: list[list[str]] = []
    for group in groups:
        mine = [name for name in group if name not in apart]
        if not mine:
            continue
        if stages and normal.issuperset(mine):
            stages[-1].extend(mine)
        else:
            stages.append(mine)
    named = name_stages(stages, parameters)
    grouped = {name for stage in stages for name in stage}
    trailing = [name for name in parameters if name not in grouped and name not in apart]
    if trailing:
        if not stages:
            stages, named = [[]], ["stem"]
        stages[-1].extend(trailing)
    order = {name: position for position, name in enumerate(parameters)}
    return Anatomy(
        backbone=backbone,
        stages=tuple(
            Stage(name=name, parameters=tuple(sorted(stage, key=order.__getitem__)))
            for name, stage in zip(named, stages, strict=True)
        ),
        head=Stage(name=HEAD, parameters=tuple(name for name in parameters if name in apart)),
    )


def name_stages(stages: Sequence[Sequence[str]], parameters: Iterable[str]) -> list[str]:
    """A name for each stage: `stem` for the first, else the highest module that the stage contains completely.

    Args:
        stages: Names of the parameters of each stage.
        parameters: Names of all parameters of the network.
    """
    owner = {name: position for position, stage in enumerate(stages) for name in stage}
    owners: dict[str, set[int]] = {}  # module path -> the stages that its parameters belong to
    for name in parameters:
        path = name
        while "." in path:
            path = path.rpartition(".")[0]
            owners.setdefault(path, set()).add(owner.get(name, -1))
    names: list[str] = []
    for position, stage in enumerate(stages):
        name = "stem" if position == 0 else _highest_module(stage[0], position, owners)
        if name in names or name == HEAD:
            name = f"{name}.{position}"
        names.append(name)
    return names


def _highest_module(parameter: str, position: int, owners: dict[str, set[int]]) -> str:
    parts = parameter.split(".")
    paths = [".".join(parts[:length]) for length in range(1, len(parts))]
    return next((path for path in paths if owners[path] == {position}), paths[-1] if paths else parameter)


def check_anatomy(anatomy: Anatomy, parameters: Sequence[str]) -> None:
    """Check that stages and head hold every parameter exactly once, and that no two stages have the same name.

    Raises:
        ValueError: they do not. The message names the backbone and a parameter.
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
                f"backbone `{anatomy.backbone}`: {counted(len(which), 'parameter')} {what}, the first is `{which[0]}`"
            )
