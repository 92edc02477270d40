"""Setup: an experiment whose names are resolved, and its network and phases, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zoo.backbone import Network
from zoo.config.grammar import share_epochs
from zoo.config.references import References, look_up
from zoo.errors import UsageError
from zoo.experiment import DEFAULT_EPOCHS, LR_BOUNDS, Experiment
from zoo.networks.building import build_network, spec_of
from zoo.networks.head import takes_vectors
from zoo.plugin import Plugins
from zoo.stage import HEAD
from zoo.strategy import Phase
from zoo.system.device import Device, choose_device


@dataclass(frozen=True, kw_only=True)
class Setup(References):
    """An experiment whose names are resolved, and where it computes."""

    device: Device


def resolve(experiment: Experiment, plugins: Plugins) -> Setup:
    """Look up everything that an experiment names, before any work.

    Raises:
        UsageError: unknown names, all at once; or settings that exclude each other.
        ZooError: the device is not there.
    """
    names = look_up(experiment, plugins)
    return Setup(**vars(names), device=choose_device(experiment.device, experiment.precision))


@dataclass(frozen=True, kw_only=True)
class PlannedPhases:
    """The phases of a run with their epochs, and notes on what was decided about them."""

    phases: tuple[Phase, ...]
    epochs: tuple[int, ...]  # of each phase; 0 where it is solved
    notes: tuple[str, ...]


def build(setup: Setup, experiment: Experiment, classes: int, *, pretrained: bool = True) -> Network:
    """The network as it is trained: built, adapted and with what the strategy attaches.

    `pretrained=False` leaves the published weights out, for a plan.

    Raises:
        UsageError: the strategy does not fit the network.
        ZooError: weights cannot be had.
    """
    network = build_network(
        setup.backbone.value,
        classes=classes,
        weights=setup.weights if pretrained else None,
        weights_file=setup.weights_file if pretrained else None,
        dropout=experiment.dropout,
        drop_path=experiment.drop_path,
        image_size=experiment.image_size,
    )
    spec = spec_of(setup.backbone.value, experiment, classes, setup.preprocess.crop)
    return setup.plan.attach(setup.plan.adapt(network, spec), spec)


def plan_phases(setup: Setup, network: Network, experiment: Experiment) -> PlannedPhases:
    """The phases for a built network, under the experiment's settings.

    A solved phase takes steps after all where the network's head cannot be solved, or where settings are asked for
    that only steps can honour and no other phase would.

    Raises:
        UsageError: a setting means nothing to the strategy, the epochs do not divide, or a rate is out of bounds.
    """
    plan = setup.plan
    phases = plan.phases(network.anatomy)
    if experiment.norm is not None:
        phases = tuple(replace(phase, norm=experiment.norm) for phase in phases)
    notes: list[str] = []
    if any(phase.solver for phase in phases) and not takes_vectors(network, setup.preprocess.crop):
        why = f"the head of `{network.anatomy.backbone}` is not one linear layer over one vector"
        phases = _step(phases, why, str(plan))
        notes.append(f"{why}, so it is trained by steps rather than solved")
    asked = experiment.for_steps
    if asked and all(phase.solver for phase in phases):
        phases = _step(phases, f"`{asked[0]}` is for steps", str(plan))
        notes.append(f"`{asked[0]}` is for steps, so `{plan}` takes steps rather than being solved")
    epochs = share_epochs(phases, experiment.epochs, DEFAULT_EPOCHS, str(plan))
    stepped = [phase for phase in phases if phase.solver is None]
    for phase in stepped:
        rate = 1.0 if experiment.lr == "find" else phase.lr * experiment.lr
        if not LR_BOUNDS[0] <= rate <= LR_BOUNDS[1]:
            raise UsageError(
                f"strategy `{plan}`: `{phase.name}` would train at a rate of {rate:g}, outside {LR_BOUNDS[0]:g} to "
                f"{LR_BOUNDS[1]:g}",
                hint=f"its `lr=` is a factor of `--lr`, which is {experiment.lr:g}",
            )
    below = {stage for phase in phases for stage in phase.trains if stage != HEAD}
    if below and not network.anatomy.parameters_of(below):
        notes.append(f"`{network.anatomy.backbone}` has nothing to train but its head, so `{plan}` trains that alone")
    notes += _of_steps(stepped, experiment) if stepped else _of_solved(phases, experiment, str(plan))
    return PlannedPhases(phases=phases, epochs=epochs, notes=tuple(notes))


def _of_steps(stepped: Sequence[Phase], experiment: Experiment) -> Iterator[str]:
    """What steps cannot do as asked."""
    least = 2 if any(phase.norm == "train" for phase in stepped) else 1  # images that a part needs
    most = max(experiment.batch_size // least, 1)
    if experiment.accumulate > most:
        yield f"`--accumulate {experiment.accumulate}`: a batch of {experiment.batch_size} has at most {most} parts"


def _of_solved(phases: Sequence[Phase], experiment: Experiment, plan: str) -> Iterator[str]:
    """What a plan without steps does not take."""
    instead = "; `--epochs 5` asks for steps" if all(phase.steps_if_asked for phase in phases) else ""
    yield (
        f"`{plan}` is solved from features of unaugmented images; settings of steps (rates, epochs, augmentation) have "
        f"no part in it{instead}"
    )
    idle = [
        f"`--{name.replace('_', '-')}`"
        for name in ("time_budget", "save_every", "compile")
        if getattr(experiment, name)
    ]
    if idle:
        yield f"{' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} for steps, of which `{plan}` takes none"


def _step(phases: tuple[Phase, ...], why: str, plan: str) -> tuple[Phase, ...]:
    stuck = next((phase for phase in phases if phase.solver and not phase.steps_if_asked), None)
    if stuck is not None:
        raise UsageError(f"{why}, and phase `{stuck.name}` of `{plan}` takes none", hint="leave one of the two out")
    return tuple(replace(phase, solver=None) for phase in phases)
