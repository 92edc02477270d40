"""Frozen means frozen: the modes, the proof, and what it catches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoo import Anatomy, Group, Network, Phase, Stage, ZooError
from zoo.networks.freezing import FrozenProof, apply_phase, recalibrate
from zoo.strategy import Norm
from zoo.training.optimizer import trained_by


class Block(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(3 if width == 4 else 4, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.5))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Dropout(0.5)
        self.stem = Block(4)
        self.body = Block(5)
        self.late = nn.Dropout(0.5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.late(self.body(self.stem(self.early(x))).mean((2, 3))))  # type: ignore[no-any-return]


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def anatomy(model: nn.Module) -> Anatomy:
    names = [name for name, _ in model.named_parameters()]
    of: Callable[[str], tuple[str, ...]] = lambda prefix: tuple(name for name in names if name.startswith(prefix))
    stages = tuple(Stage(name=name, parameters=of(name)) for name in ("stem", "body"))
    return Anatomy(backbone="net", stages=stages, head=Stage(name="head", parameters=of("fc")))


def phase(*stages: str, norm: Norm = "train") -> Phase:
    return Phase(name="test", groups=(Group(stages=stages),), norm=norm)


def apply(model: nn.Module, phase: Phase) -> None:
    apply_phase(model, trained_by(Network(model, anatomy(model)), phase), phase.norm)


def step(model: nn.Module) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    model(torch.randn(8, 3, 9, 9)).square().sum().backward()
    optimizer.step()


def test_modes_follow_what_trains(model: Net) -> None:
    apply(model, phase("body", "head"))
    assert not model.stem.training and not model.stem[2].training and not model.early.training
    assert model.body[1].training and model.body[2].training and model.late.training
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "fc.weight", "fc.bias",
    ]  # fmt: skip


def test_frozen_stages_after_trainable_ones_are_in_eval_mode(model: Net) -> None:
    """`surgical`: a frozen stage is as deterministic after a trained one as before it, its dropout included."""
    apply(model, phase("stem", "head"))
    assert not any(module.training for module in model.body.modules()) and model.stem[1].training
    proof = FrozenProof(model, "train")
    step(model)
    proof.check("in a step")
    assert model.body[1].num_batches_tracked == 0 and model.stem[1].num_batches_tracked == 1


@pytest.mark.parametrize("norm", ["frozen", "recalibrate"])
def test_frozen_statistics_stay_under_trained_affine_parameters(model: Net, norm: Norm) -> None:
    apply(model, phase("stem", "body", "head", norm=norm))
    assert not model.body[1].training and model.body[1].weight.requires_grad and model.body[2].training
    proof = FrozenProof(model, norm)
    step(model)
    proof.check("in a step")
    assert model.body[1].num_batches_tracked == 0


def test_training_statistics_move_only_where_stages_train(model: Net) -> None:
    apply(model, phase("body", "head"))
    proof = FrozenProof(model, "train")
    step(model)
    proof.check("in a step")
    assert model.body[1].num_batches_tracked == 1 and model.stem[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("tensor", "spoil"),
    [
        ("stem.0.weight", lambda model: model.stem[0].weight.data.add_(1e-7)),
        ("stem.1.running_mean", lambda model: model.stem[1].running_mean.add_(1e-7)),
        ("stem.1.num_batches_tracked", lambda model: model.stem[1].num_batches_tracked.add_(1)),
        ("stem.0.bias", lambda model: model.stem[0].bias.requires_grad_(True)),
    ],
)
def test_the_proof_names_the_changed_tensor(model: Net, tensor: str, spoil: object) -> None:
    apply(model, phase("body", "head"))
    proof = FrozenProof(model, "train")
    proof.check("before")
    spoil(model)  # type: ignore[operator]
    with pytest.raises(ZooError, match=f"frozen tensor `{tensor}` changed in epoch 3"):
        proof.check("in epoch 3")


@pytest.mark.parametrize("norm", ["frozen", "train"])
def test_the_proof_does_not_trust_the_mode_that_it_proves(model: Net, norm: Norm) -> None:
    apply(model, phase("body", "head", norm=norm))
    model.stem[1].train()  # as a recipe with a fault would leave it
    proof = FrozenProof(model, norm)
    step(model)
    with pytest.raises(ZooError, match=r"frozen tensor `stem\.1"):
        proof.check("in a step")


def test_recalibration_weighs_images_alike(model: Net) -> None:
    data = torch.randn(10, 3, 9, 9)
    data[8:] += 5
    recalibrate(model, torch.split(data, 8))  # batches of 8 and 2
    assert torch.allclose(model.get_buffer("stem.1.running_mean"), model.stem[0](data).mean((0, 2, 3)), atol=1e-4)


def test_recalibration_gives_the_statistics_of_the_data(model: Net) -> None:
    data = torch.randn(32, 3, 9, 9) * 3 + 1
    layers = recalibrate(model, torch.split(data, 8))
    assert layers == 2 and not any(module.training for module in model.modules())
    seen = model.stem[0](data)
    assert torch.allclose(model.get_buffer("stem.1.running_mean"), seen.mean((0, 2, 3)), atol=1e-4)
    assert model.stem[1].momentum == 0.1
