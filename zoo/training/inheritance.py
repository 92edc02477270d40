"""Inheritance: the weights that a run takes over from its parent (`--from`), with the head's rows matched by class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.backbone import Network
from zoo.data.class_names import keys
from zoo.errors import UsageError, ZooError, counted
from zoo.feature_cache.earlier_rows import EarlierImages
from zoo.networks.building import read_state
from zoo.networks.head import head_path
from zoo.runs.parent import ClassMatch
from zoo.runs.source_run import SourceRun
from zoo.strategy import Phase

SHOWN = 10  # names of classes in a note


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """What a run takes over from its parent.

    Attributes:
        parent: The run that it goes on from.
        classes: Of both, matched by name.
        head: Whether the head's rows of kept classes are the parent's. False: the parent's head is of another kind.
    """

    parent: SourceRun
    classes: ClassMatch
    head: bool

    def to_json(self) -> dict[str, Any]:
        """JSON values for `run.json`."""
        return {**self.parent.to_json(), "classes": self.classes.to_json(), "head": self.head}

    def notes(self, phases: Sequence[Phase]) -> tuple[str, ...]:
        """What was taken over, in words, for a run with these phases."""
        run, classes = self.parent.run, self.classes
        first = f"starts from the weights of run `{run.path}`"
        if phases[0].solver is not None:
            how = f"its head has no effect, since `{phases[0].name}` is solved anew from the features"
        elif not classes.kept:
            how = "none of its classes is in the data, so only the layers below its head are taken over"
        elif not self.head:
            how = f"its head, which is of another kind (`{run.record['strategy']}`), is not taken over"
        else:
            how = f"the head keeps its rows of {counted(len(classes.kept), 'class', 'classes')}"
            how += f", and {_named(classes.new)} begin{'s' * (len(classes.new) == 1)} anew" if classes.new else ""
        found = [f"{first}; {how}"]
        if classes.dropped:
            verb = "is" if len(classes.dropped) == 1 else "are"
            found.append(f"{_named(classes.dropped)} of run `{run.path}` {verb} not in the data, and {verb} dropped")
        return tuple(found)


def images_of(parent: SourceRun) -> tuple[EarlierImages, ...]:
    """The images that a parent used, by role; none where it has no intact `splits.json`."""
    try:
        known = parent.run.contents()
    except ZooError:  # told by `EarlierRun.unknown`
        return ()
    return tuple(EarlierImages(names=tuple(part), contents=tuple(part.values())) for part in known.values())


class TrainedState:
    """The tensors of a parent's file of weights, to be loaded into the network of the run that goes on from it."""

    def __init__(self, parent: SourceRun) -> None:
        """Read the file.

        Raises:
            ZooError: it cannot be read.
        """
        self.parent = parent
        self._state = read_state(parent.file)

    def fits(self, network: Network) -> bool:
        """Whether every tensor of a network outside its head is in the file, with the same shape."""
        return self._misfit(network) is None

    def load(self, network: Network) -> None:
        """Load what is outside the head, in place.

        Raises:
            UsageError: it does not fit.
        """
        name = self._misfit(network)
        if name is not None:
            run = self.parent.run
            raise UsageError(
                f"the weights of run `{run.path}` do not fit: `{name}` is missing from them, or has another shape",
                hint=f"it was trained by `{run.record['strategy']}`: begin with the same strategy if that changes the "
                f"network, as `truncate` does",
            )
        below = {name: self._state[name] for name in _below_head(network)}
        network.model.load_state_dict(below, strict=False)

    def load_head(self, network: Network, classes: Sequence[str]) -> bool:
        """Load the rows of classes that the parent has, too, in place; False where its head is of another kind.

        Rows of other classes keep their initial values. Tensors of the head that have no row for each class, such as
        those of a hidden layer, are loaded whole.
        """
        own = network.model.state_dict()
        names = [name for name in own if name not in set(_below_head(network))]
        before, here = keys(self.parent.run.classes), keys(classes)
        rows = {key: row for row, key in enumerate(before)}
        pairs = [(row, rows[key]) for row, key in enumerate(here) if key in rows]
        found: dict[str, torch.Tensor] = {}
        for name in names:
            there, mine = self._state.get(name), own[name]
            if there is None or there.shape[1:] != mine.shape[1:] or there.dtype != mine.dtype:
                return False
            if there.ndim and len(mine) == len(here) and len(there) == len(before):
                found[name] = mine.clone()
                for row, old in pairs:
                    found[name][row] = there[old]
            elif there.shape == mine.shape:
                found[name] = there
            else:
                return False
        network.model.load_state_dict(found, strict=False)
        return bool(names)

    def _misfit(self, network: Network) -> str | None:
        """The first tensor outside the head that the file lacks, or has with another shape."""
        own: Mapping[str, torch.Tensor] = network.model.state_dict()
        return next(
            (
                name
                for name in _below_head(network)
                if name not in self._state or self._state[name].shape != own[name].shape
            ),
            None,
        )


def _below_head(network: Network) -> Collection[str]:
    """Names of the tensors of a network that are not of its head, in order."""
    head = set(network.anatomy.head.parameters)
    try:
        path = head_path(network)
    except UsageError:  # several layers: their parameters are named, and they have no buffers
        path = None
    return [
        name
        for name in network.model.state_dict()
        if name not in head and not (path is not None and name.startswith(f"{path}."))
    ]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
