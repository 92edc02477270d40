"""The penalty of DELTA against its definition, its layers, and what it keeps a network from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from messages import refused
from tests_support import TINY
from torch import nn

from zoo import Experiment, Plugins, Run, UsageError, train
from zoo.config.choice import choose
from zoo.networks.building import build_network
from zoo.progress import Silent
from zoo.strategy import Group, Phase
from zoo.system.device import choose_device
from zoo.training.feature_distance import FeatureDistance, MapLayer, map_layers, teacher_of
from zoo.training.setup import resolve
from zoo.training.step import Stepper


class Two(nn.Module):
    """A convolution with a ReLU in place behind it, and a linear layer over positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
        self.mix, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one = self.conv(x)
        return one, self.mix(one.relu().movedim(1, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.mix(self.act(self.conv(x)).movedim(1, -1))
        return self.head(value.mean((1, 2)))  # type: ignore[no-any-return]


LAYERS = (MapLayer("conv", 1), MapLayer("mix", -1))
PLUGINS = Plugins()
LOSS = choose("cross-entropy", PLUGINS.losses, PLUGINS)
PHASE = Phase(name="delta", groups=(Group(stages=("head",)),), norm="frozen", feature_pull=0.7)


def moved() -> tuple[Two, nn.Module]:
    model = Two()
    teacher = teacher_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, teacher


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_takes_the_gradient_of_loss_and_penalty(parts: int) -> None:
    model, teacher = moved()
    images, labels = torch.randn(7, 3, 6, 6), torch.arange(7) % 3
    distance = FeatureDistance(model, teacher, LAYERS)
    distance.weigh([(images, labels)])
    with torch.no_grad():
        sizes = [float(one.square().mean()) for one in model.maps(images)]
    for count, size, weights in zip((4, 5), sizes, distance.weights, strict=True):
        assert len(weights) == count and float(weights.sum()) == pytest.approx(1 / size, rel=1e-4)

    loss = nn.functional.cross_entropy(model(images), labels)
    penalty = torch.zeros(())
    with torch.no_grad():
        theirs = teacher.maps(images)  # type: ignore[operator]
    for layer, mine, other, weights in zip(LAYERS, model.maps(images), theirs, distance.weights):
        for image in range(7):
            change = (mine - other)[image].movedim(0 if layer.channels == 1 else -1, 0)
            for channel in range(len(weights)):
                squared = change[channel].square().sum() / change[channel].numel()
                penalty = penalty + weights[channel] * squared / 2
    assert penalty > 0.1
    (loss + 0.7 * penalty / 7).backward()  # type: ignore[no-untyped-call]
    expected = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    experiment = Experiment(
        data="x", backbone="y", strategy="delta", accumulate=parts, batch_size=7, clip=0.0, label_smoothing=0.0
    )
    stepper = Stepper(
        model,
        experiment=experiment,
        device=choose_device("cpu", "fp32"),
        classes=3,
        loss=LOSS,
        class_weights=None,
        progress=Silent(),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    told, _ = stepper.step(model, (images,), labels, optimizer, PHASE, epoch=0, batch=0, start={}, distance=distance)
    assert told == pytest.approx(float(loss.detach()), rel=1e-5)  # the penalty is no part of the loss that is shown
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, before[name] - 0.5 * expected[name], atol=1e-5), name
    assert not any(module._forward_hooks for module in [*model.modules(), *teacher.modules()])


def test_a_channel_that_the_loss_depends_on_weighs_more() -> None:
    model = Two()
    with torch.no_grad():
        model.conv.get_parameter("bias").fill_(1.0)
        model.mix.weight[:, 2] = 0  # what the third channel of the convolution says is not used
        model.mix.weight[0, 1] += 3
        model.head.weight[0, 0] += 3
    images = torch.rand(6, 3, 6, 6)
    labels = torch.zeros(6, dtype=torch.long)
    distance = FeatureDistance(model, teacher_of(model), LAYERS)
    distance.weigh([(images[:4], labels[:4]), (images[4:], labels[4:])])
    weights = distance.weights[0] / distance.weights[0].sum()
    assert weights.argmax() == 1 and weights[1] > weights[2]

    def rise(channel: int) -> float:
        """Of the loss without a channel, to first order, by finite differences."""
        change = 1e-3
        losses = []
        for factor in (1 - change, 1 + change):
            one = model.conv(images)
            one[:, channel] *= factor
            value = model.head(model.mix(one.relu().movedim(1, -1)).mean((1, 2)))
            losses.append(float(nn.functional.cross_entropy(value.double(), labels)))
        return (losses[0] - losses[1]) / (2 * change)

    with torch.no_grad():
        rises = torch.tensor([rise(channel) for channel in range(4)])
    expected = ((rises - rises.mean()) / rises.std(unbiased=False) / 5).softmax(0)
    assert torch.allclose(weights, expected, atol=2e-3)
    with torch.no_grad():
        model.head.weight.zero_()  # a loss that depends on no channel
    distance.weigh([(images, labels)])
    assert torch.allclose(distance.weights[0], distance.weights[0].mean())


@pytest.mark.parametrize(
    ("name", "stages", "last"),
    [
        ("torchvision/resnet18", 5, MapLayer("layer4.1.conv2", 1)),
        ("timm/vit_tiny_patch16_224", 13, MapLayer("blocks.11.mlp.fc2", -1)),
        ("torchvision/squeezenet1_1", 9, MapLayer("features.12.expand3x3", 1)),
    ],
)
def test_the_last_layer_of_each_stage_is_compared(name: str, stages: int, last: MapLayer, plugins: Plugins) -> None:
    network = build_network(plugins.backbones.find(name).value, classes=3, image_size=32)
    layers = map_layers(network, 32)
    assert len(layers) == len(network.anatomy.stages) == stages and layers[-1] == last


def test_what_has_no_maps_or_hides_them_is_refused_before_anything_is_trained(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy="delta", compile=True)
    with refused(UsageError, "`delta`", "compiled"):
        train(experiment, out=tmp_path / "run", plugins=plugins)
    bare = replace(experiment, backbone="hog_color", image_size=None, compile=False)
    with refused(UsageError, "`hog_color`", "no feature maps", "`delta`"):
        train(bare, out=tmp_path / "run", plugins=plugins)
    assert not (tmp_path / "run").exists()


def test_features_stay_closer_to_those_of_the_start(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    def run(strategy: str) -> Run:
        experiment = replace(TINY, data=str(two_splits), strategy=strategy, epochs=3, lr=0.02)
        return train(experiment, out=tmp_path / strategy.replace(":", ""), plugins=plugins)

    experiment = replace(TINY, data=str(two_splits), strategy="full")
    setup = resolve(experiment, plugins)

    def moved_by(run: Run) -> float:
        torch.manual_seed(experiment.seed)
        start = build_network(setup.backbone.value, classes=2, image_size=experiment.image_size)
        network = run.load_network(plugins)
        distance = FeatureDistance(network.model.eval(), teacher_of(start.model), map_layers(start, 32))
        distance.weights = tuple(torch.ones(64) for _ in distance.layers)
        images = torch.randn(4, 3, 32, 32)
        with distance.watching() as watched, torch.no_grad():
            network.model(images)
            distance.teacher(images)
        return float(sum((one - other).square().sum() for one, other in zip(watched._mine, watched._theirs)))

    assert moved_by(run("delta:50")) < 0.5 * moved_by(run("lpft"))
