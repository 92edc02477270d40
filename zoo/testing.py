"""Checks for authors of plugins: the laws that every backbone and every strategy keeps, as functions to call in a test.

    from zoo.testing import check_backbone, check_strategy

    def test_mine():
        check_backbone("acmenet", image_size=32)
        check_strategy("edges:2", "acmenet", image_size=32)

Networks start from random weights and images are noise, so that a check takes a second. The built-ins pass the same
checks in the project's own tests.
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
from zoo.dataset import Images, Sample
from zoo.experiment import Experiment
from zoo.exporter import ExportSpec
from zoo.networks.building import build_network, spec_of
from zoo.networks.freezing import keeps_statistics
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.stage import check_anatomy
from zoo.strategy import Phase
from zoo.target import load_target
from zoo.training.optimizer import trained_by
from zoo.training.preparation import Job
from zoo.training.recipe import Recipe
from zoo.training.setup import PlannedPhases, Setup, build, plan_phases, resolve

CLASSES = 3
IMAGES = 9  # in batches of four: the last image, alone, joins the batch before
ROUNDING = 1e-3  # of a logit, between a network and the same network with its adapters folded in


def check_backbone(backbone: str, *, image_size: int | None = None, plugins: Plugins | None = None) -> None:
    """A backbone's stages cover it, it answers `(N, classes)` in train and eval, and gradients reach every stage.

    Raises:
        AssertionError: naming the law that does not hold.
    """
    row = (plugins or Plugins()).backbones.find(backbone).value
    torch.manual_seed(0)
    network = build_network(row, classes=CLASSES, image_size=image_size)
    size = image_size or row.preprocess.crop
    _check_cover(network)
    _check_answers(network, size)
    network.model.train()
    network.model(torch.randn(4, 3, size, size)).square().sum().backward()
    gradients = {name: value.grad for name, value in network.model.named_parameters() if value.grad is not None}
    for stage in (*network.anatomy.stages, network.anatomy.head):
        reached = [gradients[name] for name in stage.parameters if name in gradients]
        _require(reached != [], f"no gradient reaches stage `{stage.name}`")
        _require(all(bool(value.isfinite().all()) for value in reached), f"a gradient of `{stage.name}` is not finite")


def check_strategy(
    strategy: str, backbone: str, *, image_size: int | None = None, plugins: Plugins | None = None
) -> Network:
    """A strategy does on a backbone what its phases say: what trains moves, what is frozen stays, bit for bit.

    Its text has a canonical form; stages still cover the network after it is adapted; the optimiser holds each trained
    parameter once; gradients are finite; a last batch of one image works; the network that is left answers
    `(N, classes)` and can be opened again from its weights. A phase with a solver is spared the gradients.

    Returns the trained network. Raises:
        AssertionError: naming the law that does not hold.
        UsageError: the strategy's own, where it does not fit the backbone.
    """
    plugins = plugins or Plugins()
    plan = parse(strategy, plugins.strategies)
    _require(parse(canonical(plan), plugins.strategies) == plan, f"`{canonical(plan)}` does not read back as `{plan}`")
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
    _check_cover(network)
    planned = plan_phases(setup, network, experiment)
    _require(planned.phases != (), f"`{strategy}` has no phases")
    recipe = Recipe(_job(experiment, setup, network, planned, plugins))
    _check_groups(recipe)
    before = _state(network)
    for phase, record in zip(planned.phases, recipe.fit(), strict=True):
        after = _state(network)
        _check_phase(network, phase, before, after)
        _require(np.isfinite(record["train_loss"]), f"the loss of `{phase.name}` is not finite")
        before = after
    network.model.eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = network.model(images)
    network = plan.merge(network)
    _check_cover(network)
    _check_answers(network, size)
    network.model.eval()
    with torch.no_grad():
        away = float((network.model(images) - expected).abs().max())
    _require(
        away <= ROUNDING * max(1.0, float(expected.abs().max())), f"merging `{strategy}` moved a logit by {away:.2g}"
    )
    row = setup.backbone.value
    fresh = build_network(row, classes=CLASSES, image_size=image_size)
    _check_reopens(network, plan.adapt(fresh, spec_of(row, experiment, CLASSES, size)), images)
    return network


def check_export(network: Network, *, to: str = "onnx", image_size: int, plugins: Plugins | None = None) -> None:
    """A network is written by an exporter, and the file verifies itself and answers as the network does.

    Raises:
        AssertionError: naming the check that does not hold.
    """
    exporter = (plugins or Plugins()).exporters.find(to).value
    preprocess = Preprocess(resize=image_size, crop=image_size)
    classes = tuple("abc"[:CLASSES])
    network.model.eval()
    photographs = np.random.default_rng(0).integers(0, 256, (3, image_size, image_size, 3), dtype=np.uint8)
    from zoo.networks.predictor import TorchPredictor

    ours = TorchPredictor(network.model, classes, preprocess, torch.device("cpu")).logits(list(photographs))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{exporter.suffix}"
        load_target(exporter.write)(
            ExportSpec(model=network.model, preprocess=preprocess, classes=classes, metadata={}, file=file)
        )
        for check in load_target(exporter.verify)(file, "cpu"):
            _require(check.passed, f"{check.name}: {check.detail}")
        theirs = load_target(exporter.open)(file, "cpu").logits(list(photographs))
    away = float(np.abs(ours - theirs).max())
    _require(away <= ROUNDING * max(1.0, float(np.abs(ours).max())), f"the file's logits are {away:.2g} away")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _job(experiment: Experiment, setup: Setup, network: Network, planned: PlannedPhases, plugins: Plugins) -> Job:
    """A run on noise of one epoch for each phase that takes steps, which keeps nothing on disk."""
    noise = _noise(setup.preprocess)
    images = Images(name="noise", classes=tuple("abc"[:CLASSES]), splits={"train": noise.samples})
    return Job(
        experiment=experiment,
        setup=setup,
        images=images,
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
    pixels = generator.integers(0, 256, (IMAGES, preprocess.canvas, preprocess.canvas, 3), dtype=np.uint8)
    labels = np.arange(IMAGES) % CLASSES
    samples = tuple(Sample(str(index), "abc"[label], pixels[index]) for index, label in enumerate(labels))
    return DecodedImages(samples, labels.astype(np.int64), pixels, "")


def _check_cover(network: Network) -> None:
    names = [name for name, _ in network.model.named_parameters()]
    try:
        check_anatomy(network.anatomy, names)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    for stage in network.anatomy.stages:
        _require(stage.parameters != (), f"stage `{stage.name}` holds no parameter")


def _check_answers(network: Network, size: int) -> None:
    for training, count in ((True, 4), (False, 1), (False, 3)):
        network.model.train(training)
        state = copy.deepcopy(network.model.state_dict())
        with torch.no_grad():
            answer = network.model(torch.randn(count, 3, size, size))
        network.model.load_state_dict(state)
        mode = "train" if training else "eval"
        _require(
            isinstance(answer, torch.Tensor) and answer.shape == (count, CLASSES),
            f"in {mode} mode, {count} images give {getattr(answer, 'shape', type(answer).__name__)} in place of "
            f"({count}, {CLASSES})",
        )
        _require(bool(answer.isfinite().all()), f"in {mode} mode, a logit is not finite")


def _check_groups(recipe: Recipe) -> None:
    for phase, groups in zip(recipe.phases, recipe.workspace.groups):
        held = [name for group in groups for name in group.names]
        _require(all(group.names for group in groups), f"phase `{phase.name}`: a group of the optimiser is empty")
        _require(
            len(set(held)) == len(held), f"phase `{phase.name}`: a parameter stands in two groups of the optimiser"
        )
        _require(
            set(held) == set(trained_by(recipe.network, phase)),
            f"phase `{phase.name}`: the optimiser does not hold what the phase trains",
        )
        for group in phase.groups:
            stages = set(recipe.network.anatomy.parameters_of(group.stages))
            _require(bool(stages & set(held)), f"phase `{phase.name}`: nothing of {' '.join(group.stages)} trains")


def _state(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.model.state_dict().items()}


def _check_phase(
    network: Network, phase: Phase, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> None:
    trained = set(trained_by(network, phase))
    if phase.solver is not None:
        trained |= set(network.anatomy.head.parameters)
    parameters = dict(network.model.named_parameters())
    moved = {name for name in after if name not in before or not _equal(before[name], after[name])}
    for name in moved & parameters.keys():
        _require(name in trained, f"phase `{phase.name}`: `{name}` is frozen and moved")
    for name in moved - parameters.keys():
        _require(
            _may_move(network, name, phase, trained), f"phase `{phase.name}`: the buffer `{name}` is frozen and moved"
        )
    if phase.solver is not None:
        _require(moved != set(), f"phase `{phase.name}`: solving it changed nothing")
        return
    for stage in (*network.anatomy.stages, network.anatomy.head):
        mine = trained & set(stage.parameters)
        _require(
            not mine or bool(mine & moved), f"phase `{phase.name}`: stage `{stage.name}` trains, and nothing moved"
        )
    for name in trained:
        gradient = parameters[name].grad
        _require(gradient is None or bool(gradient.isfinite().all()), f"phase `{phase.name}`: the gradient of `{name}`")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _may_move(network: Network, buffer: str, phase: Phase, trained: Collection[str]) -> bool:
    """Running statistics move under `train` in layers that train, and under `recalibrate`; a solved head's too."""
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
        away = float((fresh.model(images) - expected).abs().max())
    equal = away <= ROUNDING * max(1.0, float(expected.abs().max()))
    _require(equal, "the network that is opened again from the weights answers otherwise")
    _require(fresh.anatomy == network.anatomy, "the network that is opened again is cut into other stages")
