"""Contract tests for plugin authors: checks of what plugins register, to be called in a test.

    from zoo.testing import check_backbone, check_strategy

    def test_mine():
        check_backbone("acmenet", image_size=32)
        check_strategy("edges:2", "acmenet", image_size=32)

Networks start from random weights and images are noise, so a check takes about a second. The built-in plugins pass the
same checks in the project's own tests.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

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
from zoo.exporter import ExportSpec
from zoo.networks.building import build_network, spec_of
from zoo.networks.freezing import keeps_statistics
from zoo.plugin import Plugins
from zoo.preprocess import FitSetting, ImageSize, Preprocess, height_width
from zoo.stage import check_anatomy
from zoo.strategy import Phase
from zoo.target import load_target
from zoo.training.callback_check import check_callback
from zoo.training.laws import (
    CLASSES,
    IMAGES,
    ROUNDING,
    check_augmentation,
    check_loss,
    check_optimizer,
    check_schedule,
    require,
)
from zoo.training.optimizer import trained_by
from zoo.training.preparation import Job
from zoo.training.recipe import Recipe
from zoo.training.setup import PlannedPhases, Setup, build, plan_phases, resolve

__all__ = [
    "check_augmentation",
    "check_backbone",
    "check_callback",
    "check_export",
    "check_loss",
    "check_optimizer",
    "check_schedule",
    "check_strategy",
]


def check_backbone(backbone: str, *, image_size: ImageSize | None = None, plugins: Plugins | None = None) -> None:
    """Check a backbone.

    Its stages hold every parameter exactly once. Its logits are `(N, classes)` in train and in eval mode. Gradients
    reach every stage and are finite.

    Args:
        backbone: Its name.
        image_size: Of the input, in pixels: a number, or height and width. None: the backbone's own.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
    """
    row = (plugins or Plugins()).backbones.find(backbone).value
    torch.manual_seed(0)
    network = build_network(row, classes=CLASSES, image_size=image_size)
    size = image_size or row.preprocess.crop
    _check_coverage(network)
    _check_logits(network, size)
    network.model.train()
    network.model(torch.randn(4, 3, *height_width(size))).square().sum().backward()
    gradients = {name: value.grad for name, value in network.model.named_parameters() if value.grad is not None}
    for stage in (*network.anatomy.stages, network.anatomy.head):
        reached = [gradients[name] for name in stage.parameters if name in gradients]
        require(reached != [], f"no gradient reaches stage `{stage.name}`")
        require(all(bool(value.isfinite().all()) for value in reached), f"a gradient of `{stage.name}` is not finite")


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
    _check_coverage(network)
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
    _check_coverage(network)
    _check_logits(network, size)
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


def check_export(
    network: Network,
    *,
    to: str = "onnx",
    image_size: ImageSize,
    fit: FitSetting = "crop",
    plugins: Plugins | None = None,
) -> None:
    """Check that an exporter writes a network to a file that verifies itself and gives the network's logits.

    The images are noise of the input's size, and of half and twice its height.

    Args:
        network: A network with `CLASSES` classes, such as the one that `check_strategy` returns.
        to: Name of the exporter.
        image_size: Of the input, in pixels: a number, or height and width.
        fit: How images become that size, as `--fit` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
    """
    exporter = (plugins or Plugins()).exporters.find(to).value
    preprocess = Preprocess(resize=image_size, crop=image_size).fitted(fit)
    classes = tuple("abc"[:CLASSES])
    network.model.eval()
    generator, (height, width) = np.random.default_rng(0), height_width(image_size)
    images = [
        generator.integers(0, 256, (tall, width, 3), dtype=np.uint8)
        for tall in (height, height, height, height // 2, 2 * height)
    ]
    from zoo.networks.predictor import TorchPredictor

    ours = TorchPredictor(network.model, classes, preprocess, torch.device("cpu")).logits(images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{exporter.suffix}"
        load_target(exporter.write)(
            ExportSpec(model=network.model, preprocess=preprocess, classes=classes, metadata={}, file=file)
        )
        for check in load_target(exporter.verify)(file, "cpu"):
            require(check.passed, f"{check.name}: {check.detail}")
        theirs = load_target(exporter.open)(file, "cpu").logits(images)
    difference = float(np.abs(ours - theirs).max())
    require(
        difference <= ROUNDING * max(1.0, float(np.abs(ours).max())),
        f"the file's logits differ from the network's by {difference:.2g}",
    )


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


def _check_coverage(network: Network) -> None:
    names = [name for name, _ in network.model.named_parameters()]
    try:
        check_anatomy(network.anatomy, names)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    for stage in network.anatomy.stages:
        require(stage.parameters != (), f"stage `{stage.name}` holds no parameter")


def _check_logits(network: Network, size: ImageSize) -> None:
    for training, count in ((True, 4), (False, 1), (False, 3)):
        network.model.train(training)
        state = copy.deepcopy(network.model.state_dict())
        with torch.no_grad():
            logits = network.model(torch.randn(count, 3, *height_width(size)))
        network.model.load_state_dict(state)
        mode = "train" if training else "eval"
        require(
            isinstance(logits, torch.Tensor) and logits.shape == (count, CLASSES),
            f"in {mode} mode, {count} images give {getattr(logits, 'shape', type(logits).__name__)} instead of "
            f"({count}, {CLASSES})",
        )
        require(bool(logits.isfinite().all()), f"in {mode} mode, a logit is not finite")


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
