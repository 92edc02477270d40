"""Dry run: the effect of a strategy on a network, stage by stage, without published weights and without training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.config.arguments import check_kind
from zoo.config.references import absolute_strategy, needs_validation
from zoo.data.decoding import MEMORY_BUDGET
from zoo.data.folds import with_held_out
from zoo.data.groups import shared_groups
from zoo.data.opening import found_text
from zoo.data.roles import Roles, assign_roles
from zoo.dataset import Images
from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.feature_cache.engine import TORCH
from zoo.feature_cache.engine_choice import Work, expected_engine
from zoo.feature_cache.loader import default_views
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.policy import decide_caching
from zoo.feature_cache.split_network import block_size
from zoo.networks.building import count_parameters
from zoo.networks.freezing import apply_phase, keeps_statistics
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize, height_width
from zoo.progress import Silent
from zoo.runs.parent import inherited
from zoo.storage.tensor_store import Store, size_text
from zoo.strategy import Phase
from zoo.system.accelerator import capabilities, synchronise
from zoo.system.device import training_precision
from zoo.system.process_memory import resident_memory
from zoo.training.acceptance import accept, accept_folds, check_leaks, leaks_of_files, leaks_of_folds
from zoo.training.distillation import open_teachers
from zoo.training.optimizer import ParameterGroup, changed_by, kept_numbers, plan_groups, trained_by
from zoo.training.sampler import batches
from zoo.training.seen_images import check_seen_files, check_seen_folds, origins_of, seen_before
from zoo.training.setup import Setup, build, build_from, plan_phases, resolve

# Images in the batch with which memory and time of a step are measured
SAMPLE = 4

# Number of classes that is assumed where no data are given: the smallest possible
CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage in one phase: whether it trains, and with which learning rate and weight decay.

    Attributes:
        trains: `yes`, `no`, `norms`, `biases`, `added` or `solved`.
        lr: the highest rate of its parameter groups; with `--lr find`, a factor of the rate to be found. None: it takes
            no optimiser steps.
        weight_decay: the highest of its parameter groups; None: it takes no optimiser steps.
        decayed: number of values that the weight decay applies to: neither biases nor norms.
        norm: what its layers with running statistics do: `frozen`, `train` or `recalibrate`; `-` where it has none.
        trainable: number of trainable values.
        parameters: number of values.
    """

    stage: str
    trains: str
    lr: float | None
    weight_decay: float | None
    decayed: int
    norm: str
    trainable: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """One phase: its settings, stages, steps, memory and time.

    Attributes:
        steps: optimiser steps; None without data.
        settings: those of `ema`, `mixup`, `cutmix`, `bss`, `stochnorm`, `pull`, `feature_pull` and `distill` that are
            set.
        stages: one row per stage, the head last.
        frozen: which stages the frozen prefix covers, and whether its outputs are cached; None: there is no prefix.
        memory: bytes for weights, gradients, the optimiser's state and the activations of a batch, in fp32.
        seconds: time that the network computes on this machine, without decoding and augmentation; None without data.
    """

    name: str
    solver: str | None
    epochs: int
    steps: int | None
    norm: str
    settings: dict[str, float | str]
    stages: tuple[StagePlan, ...]
    trainable: int
    frozen: str | None
    memory: int
    seconds: float | None

    @property
    def parameters(self) -> int:
        return sum(stage.parameters for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned run: its phases, steps, memory and time.

    Attributes:
        images: number of training images; None without data.
        trainable: number of values that are trainable in any phase.
        steps: optimiser steps of all phases; None without data.
        memory: bytes, in the phase that needs most.
        peak_memory: bytes of main memory that the whole process takes at its peak: libraries, the network and what is
            kept of the images. None: without data, or not on a CPU.
        seconds: estimated time of all phases; None without data.
        notes: what was decided about the data and the phases.
    """

    backbone: str
    strategy: str
    classes: int
    image_size: ImageSize
    images: int | None
    batch_size: int
    device: str
    phases: tuple[PhasePlan, ...]
    trainable: int
    parameters: int
    steps: int | None
    memory: int
    peak_memory: int | None
    seconds: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan(experiment: Experiment, *, with_data: bool = True, plugins: Plugins | None = None) -> Plan:
    """Plan a run without training it.

    Memory and time are estimates: in each phase, a few random images are passed through the network with random
    weights. With folds, the phases are those of the first fold, and the steps and the time in all are of all folds.

    Args:
        experiment: all settings of the run.
        with_data: open the experiment's data; otherwise `CLASSES` classes are assumed and steps are not counted.
        plugins: loaded plugins; None: load those installed.

    Raises:
        UsageError: a name, a strategy or a setting is wrong.
        ZooError: the data or the device are not usable. The images are not decoded, so broken ones are not found; all
            else for which `train` refuses an experiment is refused (`zoo.training.acceptance`).
    """
    check_kind(experiment, Experiment, "plan", "zoo.plan(zoo.Experiment(data=..., backbone=..., strategy=...))")
    plugins = plugins or Plugins()
    experiment = inherited(dataclasses.replace(experiment, strategy=absolute_strategy(experiment.strategy)))
    setup = resolve(experiment, plugins)
    images, notes = None, list[str]()
    names = tuple(map(str, range(CLASSES))) if setup.parent is None else setup.parent.run.classes
    trainings = experiment.folds or 1
    if with_data:
        opened, roles = _accepted(experiment, setup, plugins)
        images, names = len(roles.fit), opened.classes
        notes += [found_text(opened), *opened.notes, *roles.notes]
    else:
        whose = "" if setup.parent is None else f", those of run `{setup.parent.run.path}`,"
        notes.append(f"without `--data`, {len(names)} classes{whose} are assumed")
    if trainings > 1:
        notes.append(f"{trainings} folds: it trains {trainings} times; the phases are those of one fold")
    torch.manual_seed(experiment.seed)
    inheritance = None
    if setup.parent is None:
        network = build(setup, experiment, len(names), pretrained=False)
    else:
        network, inheritance = build_from(setup, experiment, names)
    planned = plan_phases(setup, network, experiment)
    if inheritance is not None:
        notes += inheritance.notes(planned.phases)
    if with_data:
        open_teachers(planned.phases, opened.classes)
    network.model.to(setup.device.place).to(memory_format=torch.channels_last)
    resident = resident_memory()
    phases = tuple(
        _phase_plan(network, phase, epochs, images, experiment, setup, plugins)
        for phase, epochs in zip(planned.phases, planned.epochs)
    )
    memory = max(phase.memory for phase in phases)
    trained = {name for phase in planned.phases for name in trained_by(network, phase)}
    sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    seconds = [phase.seconds for phase in phases]
    steps = [phase.steps for phase in phases]
    return Plan(
        backbone=setup.backbone.qualified,
        strategy=str(setup.plan),
        classes=len(names),
        image_size=setup.preprocess.crop,
        images=images,
        batch_size=experiment.batch_size,
        device=str(setup.device.place),
        phases=phases,
        trainable=sum(sizes[name] for name in trained),
        parameters=count_parameters(network.model),
        steps=None if images is None else trainings * sum(step or 0 for step in steps),
        memory=memory,
        peak_memory=None
        if images is None or setup.device.place.type != "cpu"
        else resident + memory + min(images * 3 * math.prod(height_width(setup.preprocess.crop)), MEMORY_BUDGET),
        seconds=None if images is None else trainings * sum(second or 0.0 for second in seconds),
        notes=(*notes, *planned.notes),
    )


def _accepted(experiment: Experiment, setup: Setup, plugins: Plugins) -> tuple[Images, Roles]:
    """The images of a run, or of its first fold, and their roles; every image is read where a leak would be refused.

    Raises:
        UsageError, ZooError: `train` would refuse them, too.
    """
    look = experiment.on_leak == "fail"
    if experiment.folds is None:
        origins = origins_of(experiment)
        accepted = accept(experiment, plugins, look=look, seen=seen_before(origins))
        images = accepted.selection.images
        if look:
            leaks = leaks_of_files(accepted, experiment, setup.preprocess)
            check_leaks(images.name, leaks, shared_groups(images.splits), experiment)
            check_seen_files(origins, accepted, experiment, setup.preprocess)
        return images, accepted.roles
    division = accept_folds(experiment, plugins)
    if look:
        check_leaks(division.images.name, *leaks_of_folds(division, experiment), experiment)
        check_seen_folds(division, experiment)
    first = with_held_out(division.images, division.folds, 1)
    return first, assign_roles(first, experiment, validated=needs_validation(experiment, plugins))


def _phase_plan(
    network: Network,
    phase: Phase,
    epochs: int,
    images: int | None,
    experiment: Experiment,
    setup: Setup,
    plugins: Plugins,
) -> PhasePlan:
    base = 1.0 if experiment.lr == "find" else experiment.lr
    groups = plan_groups(network, phase, experiment, base)
    apply_phase(network.model, [name for group in groups for name in group.names], phase.norm)
    stages = stage_plans(network, phase, groups)
    activations, each = _measure(network.model, setup, experiment, stepped=phase.solver is None)
    frozen, saved = _frozen(network, phase, epochs, images, experiment, setup, plugins)
    weights = sum(value.numel() * value.element_size() for value in network.model.state_dict().values())
    trainable = sum(stage.trainable for stage in stages)
    kept = 0.0 if phase.solver is not None else 1 + kept_numbers(setup.optimizer)  # the 1 is the gradient
    steps = images and epochs * len(batches(torch.arange(images).numpy(), experiment.batch_size))
    passes = float(epochs if phase.solver is None else 1)
    teacher = weights if phase.feature_pull else 0
    passes *= 4 / 3 if phase.feature_pull else 1  # the teacher computes forward what a step computes there and back
    return PhasePlan(
        name=phase.name,
        solver=phase.solver,
        epochs=epochs,
        steps=steps,
        norm=phase.norm,
        settings={
            word: value
            for word in ("ema", "mixup", "cutmix", "bss", "stochnorm", "pull", "feature_pull", "distill")
            if (value := getattr(phase, word)) is not None and value
        },
        stages=stages,
        trainable=trainable,
        memory=round(weights + teacher + 4 * trainable * kept) + activations,
        frozen=frozen,
        # both times are measured on few images, so the time saved may come out as more than the whole
        seconds=None if images is None else max(each * passes - saved, 0.1 * each) * images,
    )


def _frozen(
    network: Network,
    phase: Phase,
    epochs: int,
    images: int | None,
    experiment: Experiment,
    setup: Setup,
    plugins: Plugins,
) -> tuple[str | None, float]:
    """The note of a run about the phase's frozen prefix, and the seconds per image that caching it saves."""
    cache = FeatureCache(
        asked=experiment.cache,
        batch_size=experiment.batch_size,
        preprocess=setup.preprocess,
        device=setup.device,
        progress=Silent(),
    )
    trainable = changed_by(network, phase)
    if phase.solver is not None:
        network.model.eval()
    split = None if phase.needs_images else cache.split(network, trainable)
    if split is None:
        return None, 0.0
    views = 1 if phase.solver else min(experiment.views or default_views(epochs), epochs)
    what = f"{'features' if phase.solver else 'frozen prefix'} of {_until(network, trainable)}"
    if images is None:
        return f"{what}, {size_text(split.bytes)} per image and view, {counted(views, 'view')}", 0.0
    decision = decide_caching(
        split, experiment.cache, Store(), images=images, views=views, epochs=0 if phase.solver else epochs, what=what
    )
    block = block_size(experiment.batch_size, capabilities(split.place).block)
    engine = expected_engine(experiment.engine, split, block, Work(images=images * views), plugins)
    text = decision.text if engine == TORCH else f"{decision.text}; by {engine}, if it agrees with torch"
    if engine != TORCH and experiment.engine == "auto":
        text += " and a measurement shows that it pays"
    return text, split.seconds * max(epochs - views, 0) if decision.keep else 0.0


def _until(network: Network, trainable: Collection[str]) -> str:
    """The stages before the first trainable one, such as `stem to layer3`."""
    names = [stage.name for stage in network.anatomy.stages]
    first = next(
        (number for number, stage in enumerate(network.anatomy.stages) if set(stage.parameters) & set(trainable)),
        len(names),
    )
    return names[0] if first == 1 else f"{names[0]} to {names[first - 1]}"


def stage_plans(network: Network, phase: Phase, groups: Sequence[ParameterGroup]) -> tuple[StagePlan, ...]:
    """One row per stage, the head last, of a network that the phase has been applied to."""
    sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    group_of = {name: group for group in groups for name in group.names}
    narrowed = {stage: group.only for group in phase.groups for stage in group.stages}
    statistics: dict[str, bool] = {}  # parameters of layers with running statistics -> whether training updates these
    for path, module in network.model.named_modules():
        if keeps_statistics(module):
            statistics |= {f"{path}.{name}": module.training for name, _ in module.named_parameters(recurse=False)}
    rows = []
    for stage in (*network.anatomy.stages, network.anatomy.head):
        used = [group_of[name] for name in stage.parameters if name in group_of]
        updated = [statistics[name] for name in stage.parameters if name in statistics]
        norm = "train" if any(updated) else "recalibrate" if phase.norm == "recalibrate" else "frozen"
        only = narrowed.get(stage.name, "all")
        rows.append(
            StagePlan(
                stage=stage.name,
                trains="solved" if phase.solver and used else "no" if not used else "yes" if only == "all" else only,
                lr=max(group.lr for group in used) if used and phase.solver is None else None,
                weight_decay=max(group.weight_decay for group in used) if used and phase.solver is None else None,
                decayed=sum(
                    sizes[name] for name in stage.parameters if name in group_of and group_of[name].weight_decay
                ),
                norm=norm if updated else "-",
                trainable=sum(sizes[name] for name in stage.parameters if name in group_of),
                parameters=sum(sizes[name] for name in stage.parameters),
            )
        )
    return tuple(rows)


def _measure(model: nn.Module, setup: Setup, experiment: Experiment, *, stepped: bool) -> tuple[int, float]:
    """Bytes of a batch's activations in fp32, and seconds per image of a step in the run's precision.

    The bytes are those kept for the backward pass, plus twice the largest output of a frozen layer, which is freed
    again. For comparison, memory measured in real steps of EfficientNet-Lite0 on 32 images: `full` 2.4 GiB, `partial:2`
    0.6 GiB.
    """
    size, place = setup.preprocess.crop, setup.device.place
    count = min(SAMPLE, experiment.batch_size) if experiment.batch_size > 1 else 2
    inputs = torch.randn(count, 3, *height_width(size), device=place).contiguous(memory_format=torch.channels_last)
    weights = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    largest_freed = [0]  # bytes of the largest output that is not kept for the backward pass

    def watch(module: nn.Module, given: Any, answer: Any) -> None:
        if isinstance(answer, torch.Tensor) and not answer.requires_grad:
            largest_freed[0] = max(largest_freed[0], answer.numel() * answer.element_size())

    layers = [module for module in model.modules() if not list(module.children())]
    handles = [layer.register_forward_hook(watch) for layer in layers]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.set_grad_enabled(stepped), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs)
    for handle in handles:
        handle.remove()
    seconds = math.inf
    for _ in range(3):  # the first warms up
        started = perf_counter()
        with torch.set_grad_enabled(stepped):
            with training_precision(setup.device, experiment.compile):
                answer = model(inputs)
            if stepped:
                answer.float().square().mean().backward()
        synchronise(place)
        seconds = min(seconds, perf_counter() - started)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)  # the random images have changed running statistics
    part = -(-experiment.batch_size // experiment.accumulate)
    return round((sum(saved.values()) + 2 * largest_freed[0]) / count * part), seconds / count
