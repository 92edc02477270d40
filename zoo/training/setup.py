"""Setup: an experiment with its names resolved and its device chosen; then its network and phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from zoo.backbone import Network
from zoo.config.grammar import share_epochs
from zoo.config.references import References, look_up
from zoo.errors import UsageError, counted
from zoo.experiment import DEFAULT_EPOCHS, LR_BOUNDS, Experiment, option_of
from zoo.feature_cache.engine_choice import check_engine
from zoo.networks.building import build_network, spec_of
from zoo.networks.head import takes_vectors
from zoo.plugin import Plugins
from zoo.runs.parent import ClassMatch, check_backbone, open_parent
from zoo.runs.source_run import SourceRun
from zoo.stage import HEAD
from zoo.strategy import Phase
from zoo.system.device import Device, choose_device
from zoo.training.feature_distance import map_layers
from zoo.training.inheritance import Inheritance, TrainedState


@dataclass(frozen=True, kw_only=True)
class Setup(References):
    """An experiment with its names resolved, and the device that it computes on.

    Attributes:
        parent: The run whose weights training starts from. None: it starts from `weights`, or at random.
    """

    device: Device
    parent: SourceRun | None = None


def resolve(experiment: Experiment, plugins: Plugins) -> Setup:
    """Look up everything that an experiment names, and choose its device.

    Raises:
        UsageError: names are unknown (all are reported at once), or settings exclude each other.
        ZooError: the device is not available, or the engine, or the weights of the run to start from.
    """
    names = look_up(experiment, plugins)
    parent = None
    if experiment.from_run is not None:
        parent = open_parent(experiment.from_run)
        check_backbone(parent, names.backbone.qualified)
        names = replace(names, preprocess=parent.run.preprocess)
    device = choose_device(experiment.device, experiment.precision)
    check_engine(experiment.engine, device.place, plugins)
    return Setup(**vars(names), device=device, parent=parent)


@dataclass(frozen=True, kw_only=True)
class PlannedPhases:
    """The phases of a run.

    Attributes:
        epochs: of each phase; 0 where it is solved.
        notes: what was decided about the phases, for the user.
    """

    phases: tuple[Phase, ...]
    epochs: tuple[int, ...]
    notes: tuple[str, ...]


def build(setup: Setup, experiment: Experiment, classes: int, *, pretrained: bool = True) -> Network:
    """Build the network that is trained: the backbone, adapted, with the modules that the strategy attaches.

    Args:
        setup: names the backbone, the weights and the strategy.
        experiment: for dropout, stochastic depth and image size.
        classes: width of the head.
        pretrained: False leaves the published weights and the weights file out, for a dry run.

    Raises:
        UsageError: the strategy does not fit the network.
        ZooError: the weights are not available.
    """
    assert setup.parent is None or not pretrained, "`build_from` builds the network of a run that goes on from another"
    network = _backbone(setup, experiment, classes, pretrained=pretrained)
    spec = spec_of(setup.backbone.value, experiment, classes, setup.preprocess.crop)
    return setup.plan.attach(setup.plan.adapt(network, spec), spec)


def build_from(setup: Setup, experiment: Experiment, classes: Sequence[str]) -> tuple[Network, Inheritance]:
    """Build the network of a run that goes on from another, with that run's weights; also what was taken over.

    They are loaded before the strategy adapts the network, or afterwards, if the parent's was adapted in the same way.

    Args:
        setup: names the parent, the backbone and the strategy.
        experiment: for dropout, stochastic depth and image size.
        classes: names of the classes.

    Raises:
        UsageError: the strategy does not fit the network, or the weights do not.
        ZooError: the weights cannot be read.
    """
    assert setup.parent is not None
    state = TrainedState(setup.parent)
    network = _backbone(setup, experiment, len(classes), pretrained=False)
    spec = spec_of(setup.backbone.value, experiment, len(classes), setup.preprocess.crop)
    whole = state.fits(network)
    if whole:
        state.load(network)
    network = setup.plan.adapt(network, spec)
    if not whole:
        state.load(network)
    head = state.load_head(network, classes)
    match = ClassMatch.of(setup.parent.run.classes, tuple(classes))
    found = Inheritance(parent=setup.parent, classes=match, head=head)
    return setup.plan.attach(network, spec), found


def _backbone(setup: Setup, experiment: Experiment, classes: int, *, pretrained: bool) -> Network:
    return build_network(
        setup.backbone.value,
        classes=classes,
        weights=setup.weights if pretrained else None,
        weights_file=setup.weights_file if pretrained else None,
        dropout=experiment.dropout,
        drop_path=experiment.drop_path,
        image_size=experiment.image_size,
    )


def plan_phases(setup: Setup, network: Network, experiment: Experiment) -> PlannedPhases:
    """Plan the phases for a built network, with the experiment's settings.

    A phase with a solver takes optimiser steps instead where the network's head cannot be solved, or where a setting
    needs steps and no other phase takes any.

    Raises:
        UsageError: a setting has no meaning for the strategy, the epochs cannot be divided among the phases, or a
            learning rate is out of bounds.
    """
    plan = setup.plan
    phases = plan.phases(network.anatomy)
    if experiment.norm is not None:
        other = next((part.norm for part in plan.parts if part.norm not in (None, experiment.norm)), None)
        if other is not None:
            raise UsageError(
                f"strategy `{plan}` has `norm={other}`, and `--norm {experiment.norm}` contradicts it",
                hint="leave one of the two out",
            )
        phases = tuple(replace(phase, norm=experiment.norm) for phase in phases)
    notes: list[str] = []
    if any(phase.solver for phase in phases) and not takes_vectors(network, setup.preprocess.crop):
        why = f"the head of `{network.anatomy.backbone}` is not one linear layer over one vector"
        phases = _without_solvers(phases, why, str(plan))
        notes.append(f"{why}, so it is trained by optimiser steps instead of being solved")
    asked = experiment.for_steps
    if asked and all(phase.solver for phase in phases):
        phases = _without_solvers(phases, f"`{asked[0]}` needs optimiser steps", str(plan))
        notes.append(f"`{asked[0]}` needs optimiser steps, so `{plan}` takes steps instead of being solved")
    if any(phase.feature_pull for phase in phases):
        _check_feature_pull(network, setup, experiment)
    if any(phase.stochnorm is not None for phase in phases):
        _check_stochastic_norm(network, setup, experiment, phases)
    if any(phase.bss is not None for phase in phases):
        _check_shrinkage(network, setup, experiment, phases)
    epochs = share_epochs(phases, experiment.epochs, DEFAULT_EPOCHS, str(plan))
    stepped = [phase for phase in phases if phase.solver is None]
    for phase in stepped:
        rate = 1.0 if experiment.lr == "find" else phase.lr * experiment.lr
        if not LR_BOUNDS[0] <= rate <= LR_BOUNDS[1]:
            raise UsageError(
                f"strategy `{plan}`: `{phase.name}` would train at a rate of {rate:g}, outside {LR_BOUNDS[0]:g} to "
                f"{LR_BOUNDS[1]:g}",
                hint=f"change its `lr=`, a factor of `--lr`, or `--lr` itself, which is {experiment.lr:g}",
            )
    below = {stage for phase in phases for stage in phase.trains if stage != HEAD}
    if below and not network.anatomy.parameters_of(below):
        notes.append(
            f"`{network.anatomy.backbone}` has nothing to train but its head, so `{plan}` trains only the head"
        )
    if stepped:
        longest = max(count for phase, count in zip(phases, epochs) if phase.solver is None)
        notes += _notes_on_steps(stepped, longest, experiment)
    else:
        notes += _notes_on_solving(phases, experiment, str(plan))
    return PlannedPhases(phases=phases, epochs=epochs, notes=tuple(notes))


def _check_feature_pull(network: Network, setup: Setup, experiment: Experiment) -> None:
    """Raise a `UsageError` where feature maps cannot be compared."""
    if experiment.compile:
        raise UsageError(
            f"`{setup.plan}` compares feature maps, which a compiled network does not show",
            hint="leave `--compile` out",
        )
    if not map_layers(network, setup.preprocess.crop):
        raise UsageError(
            f"`{network.anatomy.backbone}` has no feature maps that `{setup.plan}` could compare",
            hint="use another backbone, or `l2sp`, which compares weights",
        )


def _check_stochastic_norm(network: Network, setup: Setup, experiment: Experiment, phases: Sequence[Phase]) -> None:
    """Raise a `UsageError` where no batch norm follows its batches."""
    if experiment.compile:
        raise UsageError(
            f"`stochnorm=` of `{setup.plan}` changes batch norms, which a compiled network does not show",
            hint="leave `--compile` out, or `stochnorm=`",
        )
    if experiment.norm not in (None, "train"):
        raise UsageError(
            f"`stochnorm=` of `{setup.plan}` needs batches' statistics, and `--norm {experiment.norm}` has running "
            "ones alone",
            hint="leave one of the two out",
        )
    stages = {stage for phase in phases if phase.stochnorm is not None for stage in phase.trains}
    trained = network.anatomy.parameters_of(stages)
    norms = {
        f"{path}.weight"
        for path, one in network.model.named_modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm)
    }
    if not norms & set(trained):
        raise UsageError(
            f"`stochnorm=` of `{setup.plan}` has no effect: no batch norm of `{network.anatomy.backbone}` trains",
            hint="leave it out, or train more stages",
        )


def _check_shrinkage(network: Network, setup: Setup, experiment: Experiment, phases: Sequence[Phase]) -> None:
    """Raise a `UsageError` where the features that enter the head cannot be seen, or do not change."""
    if experiment.compile:
        raise UsageError(
            f"`{setup.plan}` reads the features that enter the head, which a compiled network does not show",
            hint="leave `--compile` out, or `bss=`",
        )
    if not any(phase.bss is not None and set(phase.trains) - {HEAD} for phase in phases):
        raise UsageError(
            f"`bss=` of `{setup.plan}` changes features, and only the head trains", hint="use `partial:1` or `full`"
        )
    if not takes_vectors(network, setup.preprocess.crop):
        raise UsageError(
            f"`bss=` of `{setup.plan}` needs a head that takes one vector for each image, and that of "
            f"`{network.anatomy.backbone}` does not",
            hint="leave `bss=` out, or use another backbone",
        )


def _notes_on_steps(stepped: Sequence[Phase], longest: int, experiment: Experiment) -> Iterator[str]:
    """Notes on settings that optimiser steps cannot follow exactly."""
    least = 2 if any(phase.norm == "train" for phase in stepped) else 1  # images that a part needs
    most = max(experiment.batch_size // least, 1)
    if experiment.accumulate > most:
        held = counted(most, "part")
        yield f"`--accumulate {experiment.accumulate}`: a batch of {experiment.batch_size} has at most {held}"
    patience = experiment.early_stopping
    least = (patience or 0) + 2  # the best epoch, those without a lower loss, and one that is not trained
    if patience is not None and longest < least:
        yield (
            f"`--early-stopping {patience}` ends no phase early, since none has {least} epochs; each keeps the weights "
            "of its best epoch all the same"
        )


def _notes_on_solving(phases: Sequence[Phase], experiment: Experiment, plan: str) -> Iterator[str]:
    """Notes on settings that a strategy without optimiser steps ignores."""
    instead = "; `--epochs 5` trains it by steps instead" if all(phase.steps_if_asked for phase in phases) else ""
    yield (
        f"`{plan}` is solved from features of images without augmentation; settings of optimiser steps (rates, epochs, "
        f"augmentation) have no effect{instead}"
    )
    ignored = [f"`{option_of(name)}`" for name in ("time_budget", "save_every", "compile") if getattr(experiment, name)]
    if experiment.precision == "bf16":
        ignored.append("`--precision bf16`")
    if ignored:
        yield f"{' and '.join(ignored)} {'needs' if len(ignored) == 1 else 'need'} optimiser steps; `{plan}` takes none"


def _without_solvers(phases: tuple[Phase, ...], why: str, plan: str) -> tuple[Phase, ...]:
    """The phases with optimiser steps in place of solvers; `why` they are needed begins an error's message.

    Raises:
        UsageError: a phase can only be solved.
    """
    solved = next((phase for phase in phases if phase.solver and not phase.steps_if_asked), None)
    if solved is not None:
        raise UsageError(
            f"{why}, and phase `{solved.name}` of `{plan}` takes no optimiser steps", hint="leave one of the two out"
        )
    return tuple(replace(phase, solver=None) for phase in phases)
