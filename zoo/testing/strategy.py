"""The laws of strategies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.config.grammar import canonical, parse
from zoo.data.decoding import DecodedImages
from zoo.data.roles import Roles
from zoo.data.selection import Selection
from zoo.dataset import Images, Sample
from zoo.experiment import Experiment
from zoo.networks.building import build_network, spec_of
from zoo.networks.freezing import keeps_statistics
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize, Preprocess, height_width
from zoo.strategy import Phase
from zoo.testing.backbone import check_coverage, check_logits
from zoo.testing.law import CLASSES, IMAGES, ROUNDING, require
from zoo.training.optimizer import trained_by
from zoo.training.preparation import Job
from zoo.training.recipe import Recipe
from zoo.training.setup import PlannedPhases, Setup, build, plan_phases, resolve


def check_strategy(
    strategy: str, backbone: str, *, image_size: ImageSize | None = None, plugins: Plugins | None = None
) -> Network:
    """Train one epoch of each phase of a strategy on a backbone, and check the result against the phases.

    Every stage that trains changes, and every frozen tensor keeps its bits. The text of the strategy has a canonical
    form. Stages hold every parameter exactly once, also after the network is adapted. The optimiser has each trainable
    parameter once. Gradients are finite, which is not checked in a phase with a solver. A last batch of one image
    works. The trained network has logits `(N, classes)` and can be opened again from its weights.

    Args:
        strategy: Its text, as `--strategy` takes it.
        backbone: Name of the backbone.
        image_size: Of the input, in pixels: a number, or height and width. None: the backbone's own.
        plugins: Loaded plugins. None: load those installed.

    Returns:
        The trained network.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the strategy does not fit the backbone.
    """
    plugins = plugins or Plugins()
    plan = parse(strategy, plugins.strategies)
    require(parse(canonical(plan), plugins.strategies) == plan, f"`{canonical(plan)}` does not read back as `{plan}`")
    experiment = Experiment(
        data="noise",
        backbone=backbone,
        strategy=strategy,
        weights="none" if plan.pretrained else "default",
        image_size=image_size,
        batch_size=4,
        device="cpu",
        precision="fp32",
    )
    setup = resolve(experiment, plugins)
    torch.manual_seed(0)
    network = build(setup, experiment, CLASSES)
    size = setup.preprocess.crop
    check_coverage(network)
    planned = plan_phases(setup, network, experiment)
    require(planned.phases != (), f"`{strategy}` has no phases")
    recipe = Recipe(_job(experiment, setup, network, planned, plugins))
    _check_groups(recipe)
    before = _state(network)
    for phase, record in zip(planned.phases, recipe.fit(), strict=True):
        after = _state(network)
        _check_phase(network, phase, before, after)
        require(np.isfinite(record["train_loss"]), f"the loss of `{phase.name}` is not finite")
        before = after
    network.model.eval()
    images = torch.randn(2, 3, *height_width(size))
    with torch.no_grad():
        expected = network.model(images)
    network = plan.merge(network)
    check_coverage(network)
    check_logits(network, size)
    network.model.eval()
    with torch.no_grad():
        difference = float((network.model(images) - expected).abs().max())
    require(
        difference <= ROUNDING * max(1.0, float(expected.abs().max())),
        f"merging `{strategy}` changed a logit by {difference:.2g}",
    )
    row = setup.backbone.value
    fresh = build_network(row, classes=CLASSES, image_size=image_size)
    _check_reopens(network, plan.adapt(fresh, spec_of(row, experiment, CLASSES, size)), images)
    return network


def _job(experiment: Experiment, setup: Setup, network: Network, planned: PlannedPhases, plugins: Plugins) -> Job:
    """A training run on noise, of one epoch in each phase that takes steps. It stores nothing on disk."""
    noise = _noise(setup.preprocess)
    images = Images(name="noise", classes=tuple("abc"[:CLASSES]), splits={"train": noise.samples})
    return Job(
        experiment=experiment,
        setup=setup,
        selection=Selection(images=images),
        roles=Roles(fit=noise.samples, choose=(), reported="val", notes=()),
        network=network,
        phases=replace(planned, epochs=tuple(0 if phase.solver else 1 for phase in planned.phases)),
        decoded={"fit": noise},
        bad=(),
        start_digest="",
        context=Context(plugins=plugins, store=None),
    )


def _noise(preprocess: Preprocess) -> DecodedImages:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, *preprocess.canvas, 3), dtype=np.uint8)
    labels = np.arange(IMAGES) % CLASSES
    samples = tuple(Sample(str(index), "abc"[label], pixels[index]) for index, label in enumerate(labels))
    return DecodedImages(samples, labels.astype(np.int64), pixels, "")


def _check_groups(recipe: Recipe) -> None:
    for phase, groups in zip(recipe.phases, recipe.workspace.groups):
        optimised = [name for group in groups for name in group.names]
        require(all(group.names for group in groups), f"phase `{phase.name}`: a group of the optimiser is empty")
        require(
            len(set(optimised)) == len(optimised),
            f"phase `{phase.name}`: a parameter is in two groups of the optimiser",
        )
        require(
            set(optimised) == set(trained_by(recipe.network, phase)),
            f"phase `{phase.name}`: the optimiser's parameters are not those that the phase trains",
        )
        for group in phase.groups:
            stages = set(recipe.network.anatomy.parameters_of(group.stages))
            require(
                bool(stages & set(optimised)), f"phase `{phase.name}`: no parameter of {' '.join(group.stages)} trains"
            )


def _state(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.model.state_dict().items()}


def _check_phase(
    network: Network, phase: Phase, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> None:
    trained = set(trained_by(network, phase))
    if phase.solver is not None:
        trained |= set(network.anatomy.head.parameters)
    parameters = dict(network.model.named_parameters())
    changed = {name for name in after if name not in before or not _equal(before[name], after[name])}
    for name in changed & parameters.keys():
        require(name in trained, f"phase `{phase.name}`: `{name}` is frozen but changed")
    for name in changed - parameters.keys():
        require(
            _may_change(network, name, phase, trained),
            f"phase `{phase.name}`: the buffer `{name}` is frozen but changed",
        )
    if phase.solver is not None:
        require(changed != set(), f"phase `{phase.name}`: its solver changed nothing")
        return
    for stage in (*network.anatomy.stages, network.anatomy.head):
        mine = trained & set(stage.parameters)
        require(
            not mine or bool(mine & changed), f"phase `{phase.name}`: stage `{stage.name}` trains but did not change"
        )
    for name in trained:
        gradient = parameters[name].grad
        require(
            gradient is None or bool(gradient.isfinite().all()),
            f"phase `{phase.name}`: the gradient of `{name}` is not finite",
        )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _may_change(network: Network, buffer: str, phase: Phase, trained: Collection[str]) -> bool:
    """Whether a phase may change a buffer.

    Running statistics change with `norm=recalibrate`, and with `norm=train` in layers that train. A solver may change
    buffers of layers without parameters, which are part of a solved head.
    """
    path = buffer.rpartition(".")[0]
    layer = network.model.get_submodule(path)
    if not keeps_statistics(layer):
        return phase.solver is not None and not list(layer.parameters())
    if phase.norm == "recalibrate":
        return True
    return phase.norm == "train" and any(
        f"{path}.{name}" in trained for name, _ in layer.named_parameters(recurse=False)
    )


def _check_reopens(network: Network, fresh: Network, images: torch.Tensor) -> None:
    fresh.model.load_state_dict(network.model.state_dict())
    fresh.model.eval()
    with torch.no_grad():
        expected = network.model(images)
        difference = float((fresh.model(images) - expected).abs().max())
    equal = difference <= ROUNDING * max(1.0, float(expected.abs().max()))
    require(equal, "the network that is opened again from its weights has other logits")
    require(fresh.anatomy == network.anatomy, "the network that is opened again has other stages")
