"""Strategies: which parameters are fine-tuned and how, as a sequence of phases."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zoo.errors import UsageError
from zoo.stage import HEAD, Anatomy
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.backbone import BuildSpec, Network

Norm = Literal["frozen", "train", "recalibrate"]
NORMS: tuple[Norm, ...] = ("frozen", "train", "recalibrate")
Only = Literal["all", "norms", "biases", "added"]
ONLY: tuple[Only, ...] = ("all", "norms", "biases", "added")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Stages that train at the same learning rate.

    Attributes:
        stages: Names of the stages, `head` among them.
        lr: Factor of the phase's learning rate.
        only: Which parameters of the stages train: `all`, those of normalisation layers (`norms`), `biases`, or those
            that `Strategy.attach` added (`added`).
        decays: Whether weight decay applies to them. It pulls towards 0, which is wrong for factors that start at 1.
    """

    stages: tuple[str, ...]
    lr: float = 1.0
    only: Only = "all"
    decays: bool = True


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of training in which the same parameters are trainable.

    Attributes:
        name: Name in the history and in messages.
        groups: Stages that train. All others are frozen.
        norm: What happens to the running statistics of normalisation layers. `frozen`: they do not change, also where
            the layer's affine parameters train. `train`: they follow the batches in stages that train. `recalibrate`:
            they are computed once from the training images at the start of the phase, and then do not change.
        epochs: Number of epochs. None: an equal share of the run's epochs that other phases leave.
        lr: Factor of the run's learning rate.
        ema: Decay of an exponential moving average of the trainable parameters, which the phase ends with. None: no
            average.
        mixup: Alpha of mixup (Zhang et al. 2018, "mixup: beyond empirical risk minimization"). None: no mixup.
        cutmix: Alpha of CutMix (Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with
            localizable features"). None: no CutMix.
        pull: Alpha of L2-SP (Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional
            networks", equation 3): the loss grows by alpha / 2 times the squared distance of the parameters that train,
            except those of the head, to their values at the start of the run.
        feature_pull: Alpha of DELTA (Li et al. 2019, "DELTA: deep learning transfer using feature map with attention
            for convolutional networks"): the loss of an image grows by alpha / 2 times the weighted squared distance of
            the feature maps of each stage to those of the network at the start of the run, relative to their size.
        bss: Strength of batch spectral shrinkage (Chen et al. 2019, "Catastrophic forgetting meets negative transfer:
            batch spectral shrinkage for safe transfer learning"): the loss of a batch grows by it times the square of
            the smallest singular value of the features that enter the head. None: no such penalty.
        stochnorm: Probability that a channel of a batch norm is normalised by its batch, and else by its running
            statistics (Kou et al. 2020, "Stochastic normalization"). It needs `norm` `train`. None: as `norm` says.
        distill: Folder of a finished run whose probabilities are learnt beside the labels (Hinton et al. 2015,
            "Distilling the knowledge in a neural network"). None: there is no teacher.
        distill_temperature: Divisor of both networks' logits before their probabilities are compared.
        distill_weight: Share of the teacher in the loss, from above 0 to 1; the labels have the rest.
        solver: `"module:function"` of `(zoo.solver.Task) -> dict`, which computes the head from the features of the
            training images. The phase then takes no optimiser steps. None: the phase takes steps.
        keep_solution: Whether the store keeps what the solver computes, if the head is one linear layer, so that the
            same task is solved once. It must then depend on the task, on the solver's package and on nothing else.
        steps_if_asked: Whether a phase with a solver takes steps instead, if the user asks for something that only
            steps have (`epochs`, `lr`, an augmentation).
    """

    name: str
    groups: tuple[Group, ...]
    norm: Norm = "train"
    epochs: int | None = None
    lr: float = 1.0
    ema: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    bss: float | None = None
    stochnorm: float | None = None
    pull: float = 0.0
    feature_pull: float = 0.0
    distill: str | None = None
    distill_temperature: float = 4.0
    distill_weight: float = 0.9
    solver: str | None = None
    keep_solution: bool = False
    steps_if_asked: bool = False

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the stages that train."""
        return tuple(stage for group in self.groups for stage in group.stages)

    @property
    def needs_images(self) -> bool:
        """Whether steps need whole images, so that outputs of a frozen prefix cannot take their place."""
        return self.mixup is not None or self.cutmix is not None or self.feature_pull > 0


@dataclass(frozen=True)
class Strategy(ABC):
    """Base class of every strategy.

    A subclass is a frozen dataclass, and its fields are the options after the colon. The first field may be given
    without its key (`partial:2`). A field's annotation is the option's type: int, float, bool, str or a Literal. A
    string under the field is its help. The words in `RESERVED` belong to every phase and cannot be names of fields.

    Attributes:
        name: What `--strategy` takes.
        summary: One line for `zoo list strategies`.
        pretrained: Whether training starts from published weights. False: it starts from random weights.
        alone: Why no other strategy can be joined to it with `+`. Empty: others can.
        searched: Values of options that the search of a study tries, by the option's name, where the strategy takes no
            optimiser steps and the option has its default.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    pretrained: ClassVar[bool] = True
    alone: ClassVar[str] = ""
    searched: ClassVar[Mapping[str, tuple[int | float | str, ...]]] = {}

    @property
    def opens(self) -> str:
        """Why no other strategy can come before it. Empty: others can."""
        return "" if self.pretrained else "it starts from random weights"

    @abstractmethod
    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        """The phases for a network with these stages, in order.

        Raises:
            UsageError: the options do not fit the network, such as `partial:9` for a network of five stages.
        """

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        """Change the network permanently before the first phase, for instance its head or its number of stages.

        A run stores the weights of the adapted network, so this is also called when a run is opened.

        Raises:
            UsageError: the network cannot be adapted in this way.
        """
        return network

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        """Add what only training needs, such as adapters, before the first phase; list it in `Anatomy.added`.

        Raises:
            UsageError: the network has no layer that it could be added to.
        """
        return network

    def merge(self, network: Network) -> Network:
        """Undo `attach` after the last phase. The network computes the same, and has the structure `adapt` gave it."""
        return network


RESERVED = (
    "epochs", "lr", "norm", "ema", "mixup", "cutmix", "bss", "stochnorm", "distill", "distill_temperature",
    "distill_weight",
)  # fmt: skip

# Bounds of `distill_temperature`: beyond them the probabilities of all images are the same in float32
LEAST_SOFTENING, MOST_SOFTENING = 0.1, 1000.0

# Options that only have a meaning for optimiser steps. `norm` is not among them: a solver can use `norm=recalibrate`
STEP_WORDS = ("epochs", "lr", "ema", "mixup", "cutmix", "bss", "stochnorm", "distill")


def check_phase(phase: Phase, anatomy: Anatomy, strategy: str) -> None:
    """Check that a phase fits a network: it trains existing stages, each once, and its numbers are within bounds.

    Raises:
        UsageError: it does not fit. `strategy` is how the message names the strategy.
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
        raise UsageError(f"strategy `{strategy}`: a stage of phase `{phase.name}` is in two groups")
    for rate in (phase.lr, *(group.lr for group in phase.groups)):
        if not math.isfinite(rate) or rate <= 0:
            raise UsageError(f"strategy `{strategy}`: a learning rate of `{rate}` is not a positive number")
    if phase.epochs is not None and phase.epochs < 1:
        raise UsageError(f"strategy `{strategy}`: phase `{phase.name}` has no epochs")
    if phase.norm not in NORMS:
        raise UsageError(f"strategy `{strategy}`: norm `{phase.norm}` is none of {' '.join(NORMS)}")
    for word, high in (("ema", 1.0), ("stochnorm", 1.0), ("mixup", math.inf), ("cutmix", math.inf), ("bss", math.inf)):
        value = getattr(phase, word)
        if value is not None and not 0 < value < high:
            bounds = "between 0 and 1" if high == 1 else "a positive number"
            raise UsageError(f"strategy `{strategy}`: `{word}={value}` is not {bounds}")
    if phase.stochnorm is not None and phase.norm != "train":
        raise UsageError(
            f"strategy `{strategy}`: `stochnorm={phase.stochnorm:g}` chooses between a batch's statistics and running "
            f"ones, and `norm={phase.norm}` has running ones alone",
            hint="pass `norm=train`, or leave one of the two out",
        )
    for word in ("pull", "feature_pull"):
        value = getattr(phase, word)
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"strategy `{strategy}`: `{word}={value}` is not a number of 0 or more")
    if phase.distill is not None and (phase.mixup is not None or phase.cutmix is not None):
        word = "mixup" if phase.mixup is not None else "cutmix"
        raise UsageError(
            f"strategy `{strategy}`: `distill=` and `{word}=` exclude each other: a teacher sees whole images",
            hint="leave one of the two out",
        )
    if not 0 < phase.distill_weight <= 1:
        raise UsageError(f"strategy `{strategy}`: `distill_weight={phase.distill_weight:g}` is not above 0 and up to 1")
    if not LEAST_SOFTENING <= phase.distill_temperature <= MOST_SOFTENING:
        raise UsageError(
            f"strategy `{strategy}`: `distill_temperature={phase.distill_temperature:g}` is not between "
            f"{LEAST_SOFTENING:g} and {MOST_SOFTENING:g}"
        )
    for group in phase.groups:
        if group.only not in ONLY:
            raise UsageError(f"strategy `{strategy}`: `only={group.only}` is none of {' '.join(ONLY)}")


def option_help(kind: type[Strategy]) -> dict[str, str]:
    """Help of each option of a strategy: the string under its field in the class.

    It is empty where there is no such string, or no source code to read it from.
    """
    found = {field.name: "" for field in dataclasses.fields(kind)}
    for owner in reversed(kind.__mro__):
        try:
            import textwrap  # not at the top: no command but the lists of options needs it

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


__getattr__ = lazy_attributes(
    __name__,
    {
        **{name: f"zoo.networks.head:{name}" for name in ("features_width", "replace_head", "start_layer")},
        **{
            name: f"zoo.networks.tracing:{name}" for name in ("LARGE_BATCH", "eval_mode", "find_prefix", "prefix_graph")
        },
    },
)
