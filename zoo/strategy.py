"""Strategy: a way to fine-tune, as a plan of phases that the recipe carries out."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zoo.errors import UsageError
from zoo.stage import HEAD, Anatomy

if TYPE_CHECKING:
    from zoo.backbone import BuildSpec, Network

Norm = Literal["frozen", "train", "recalibrate"]
NORMS: tuple[Norm, ...] = ("frozen", "train", "recalibrate")
Only = Literal["all", "norms", "biases", "added"]
ONLY: tuple[Only, ...] = ("all", "norms", "biases", "added")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Stages that train together (`head` is a stage's name here), at `lr` times the phase's rate.

    `only` narrows the group to the parameters of normalisation layers (`norms`), to `biases`, or to what
    `Strategy.attach` added (`added`).
    """

    stages: tuple[str, ...]
    lr: float = 1.0
    only: Only = "all"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What trains, how fast and for how long, until the next phase begins.

    `norm` is what layers with running statistics do. `frozen`: statistics stay as they are everywhere, also under
    trained affine parameters. `train`: they follow the batches in stages that train. `recalibrate`: they are
    computed anew from the training images once, at the start of the phase, and then stay.

    A phase with a `solver` takes no steps: the head is computed from the features of the training images by a
    function `(zoo.solver.Task) -> dict`, named as `"module:function"`. With `steps_if_asked` it takes steps after all
    where something is asked of it that only steps have (`epochs`, `lr`, an augmentation).
    """

    name: str
    groups: tuple[Group, ...]
    norm: Norm = "train"
    epochs: int | None = None  # None: an equal share of what is left of the run's epochs
    lr: float = 1.0  # times the run's rate
    ema: float | None = None  # decay of an exponential moving average of what trains; the phase ends with the average
    mixup: float | None = None  # alpha of Zhang et al. 2018, "mixup"
    cutmix: float | None = None  # alpha of Yun et al. 2019, "CutMix"
    pull: float = 0.0  # alpha / 2 times the squared distance of trained stages to their start: Li et al. 2018, eq. 3
    solver: str | None = None
    steps_if_asked: bool = False

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the stages that train."""
        return tuple(stage for group in self.groups for stage in group.stages)


@dataclass(frozen=True)
class Strategy(ABC):
    """The contract. A subclass is a frozen dataclass; its fields are the options after the colon.

    The first field may be given without its key (`partial:2`). A field's annotation is the option's type (int, float,
    bool, str or a Literal), and a string under the field is its help. Words in `RESERVED` belong to every phase and
    may not be used as fields.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    pretrained: ClassVar[bool] = True  # False: starts from random weights, whatever is published
    alone: ClassVar[str] = ""  # why nothing may be joined to it, if so

    @property
    def opens(self) -> str:
        """Why nothing may come before it, if so."""
        return "" if self.pretrained else "it starts anew"

    @abstractmethod
    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        """The plan for a network cut like this.

        Raises:
            UsageError: the options do not fit the network (`partial:9` of five stages).
        """

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        """Change the network for good, before the first phase: another head, fewer stages.

        A run's weights are those of the adapted network, so this is also called when a run is opened.

        Raises:
            UsageError: the network cannot be adapted so.
        """
        return network

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        """Add what only training needs (adapters), before the first phase; `Anatomy.added` names its parameters.

        Raises:
            UsageError: the network has no place for it.
        """
        return network

    def merge(self, network: Network) -> Network:
        """Undo `attach` after the last phase: the same function, in the network as `adapt` left it."""
        return network


RESERVED = ("epochs", "lr", "norm", "ema", "mixup", "cutmix")

# Words that only steps can honour; `norm=recalibrate` is of use to a solver too
STEP_WORDS = ("epochs", "lr", "ema", "mixup", "cutmix")


def check_phase(phase: Phase, anatomy: Anatomy, strategy: str) -> None:
    """A phase trains something, names stages that exist, each once, at a finite positive rate.

    Raises:
        UsageError: it does not.
    """
    known = (*anatomy.names, HEAD)
    trained = phase.trains
    if not trained and phase.solver is None:
        raise UsageError(f"strategy `{strategy}`: phase `{phase.name}` trains nothing")
    for stage in trained:
        if stage not in known:
            raise UsageError(
                f"strategy `{strategy}`: `{anatomy.backbone}` has no stage `{stage}`; it has {' '.join(known)}"
            )
    if len(set(trained)) != len(trained):
        raise UsageError(f"strategy `{strategy}`: a stage of phase `{phase.name}` stands in two groups")
    for rate in (phase.lr, *(group.lr for group in phase.groups)):
        if not math.isfinite(rate) or rate <= 0:
            raise UsageError(f"strategy `{strategy}`: a learning rate of `{rate}` is not a positive number")
    if phase.epochs is not None and phase.epochs < 1:
        raise UsageError(f"strategy `{strategy}`: phase `{phase.name}` has no epochs")
    if phase.norm not in NORMS:
        raise UsageError(f"strategy `{strategy}`: norm `{phase.norm}` is none of {' '.join(NORMS)}")
    for word, low, high in (("ema", 0.0, 1.0), ("mixup", 0.0, math.inf), ("cutmix", 0.0, math.inf)):
        value = getattr(phase, word)
        if value is not None and not low < value < high:
            bounds = "between 0 and 1" if high == 1 else "a positive number"
            raise UsageError(f"strategy `{strategy}`: `{word}={value}` is not {bounds}")
    if not math.isfinite(phase.pull) or phase.pull < 0:
        raise UsageError(f"strategy `{strategy}`: a pull of `{phase.pull}` is no number from 0 up")
    for group in phase.groups:
        if group.only not in ONLY:
            raise UsageError(f"strategy `{strategy}`: `only={group.only}` is none of {' '.join(ONLY)}")


def option_help(kind: type[Strategy]) -> dict[str, str]:
    """Help of each option: the string under its field in the class. Empty where there is none, or no source."""
    found = {field.name: "" for field in dataclasses.fields(kind)}
    for owner in reversed(kind.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        body = next((node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)), [])
        for above, below in itertools.pairwise(body):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    if name in found:
                        found[name] = inspect.cleandoc(text)
    return found
