"""Folded batch norms: the same answers and the same gradients, or nothing is folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo import Plugins
from zoo.feature_cache.split_network import SplitNetwork
from zoo.networks.batchnorm_folding import FoldedSteps, fold
from zoo.networks.building import build_network
from zoo.networks.freezing import apply_phase
from zoo.networks.tracing import noise

CPU = torch.device("cpu")


def build(name: str, plugins: Plugins) -> nn.Module:
    """A network whose batch norms have something to fold."""
    torch.manual_seed(0)
    model = build_network(plugins.backbones.find(name).value, classes=3).model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


# with how many batch norms are left: those of a DenseNet that come before their convolutions
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("torchvision/resnet18", 0),
        ("torchvision/mobilenet_v2", 0),
        ("torchvision/densenet121", 62),
        ("lite/efficientnet_lite0", 0),
        ("timm/resnet18", 0),
        ("timm/regnetx_002", 0),
    ],
)
def test_a_folded_network_answers_as_before(name: str, left: int, plugins: Plugins) -> None:
    model = build(name, plugins)
    before, images = copy.deepcopy(model.state_dict()), noise(3, 64, CPU)
    folded = fold(model, images)
    assert folded is not None and norms(model) > norms(folded) == left
    with torch.no_grad():
        wanted, found = model(images), folded(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    head = next(reversed(dict(model.named_parameters())))
    assert folded.get_parameter(head).data_ptr() == model.get_parameter(head).data_ptr()  # shared, not copied


class Branched(nn.Module):
    """The convolution's output goes past its batch norm as well, which no hook can see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.late = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.conv(x)
        return self.late(self.norm(once) + once.relu()).mean((2, 3))  # type: ignore[no-any-return]


class Repeated(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = norm(self.conv(x))
        return x.mean((2, 3))


def stirred(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 3.0)
            module.running_mean.normal_()  # type: ignore[union-attr]
    return model.eval()


def test_unsupported_batch_norms_are_not_folded() -> None:
    torch.manual_seed(0)
    assert fold(stirred(Repeated()), noise(2, 8, CPU)) is None
    assert fold(stirred(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))), noise(2, 8, CPU)) is None
    training = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    assert fold(training, noise(2, 8, CPU)) is None
    for model in (Branched(), Repeated()):
        assert len(FoldedSteps(stirred(model), noise(2, 8, CPU))) == 0


def test_a_cut_computes_unfolded_where_folding_would_change_it() -> None:
    torch.manual_seed(0)
    model = stirred(Branched())
    late = {"late.weight", "late.bias"}
    apply_phase(model, late, "frozen")
    cut = SplitNetwork(model, late, noise(3, 8, CPU), None)
    with torch.no_grad():
        assert torch.equal(cut.rest(*cut.prefix(noise(3, 8, CPU))), model(noise(3, 8, CPU)))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "lite/efficientnet_lite0", "torchvision/densenet121"])
def test_folded_steps_have_the_gradients_of_plain_ones(name: str, plugins: Plugins) -> None:
    model = build(name, plugins)
    apply_phase(model, [name for name, _ in model.named_parameters()], "frozen")
    images, kept = noise(4, 64, CPU), copy.deepcopy(model.state_dict())
    folded = FoldedSteps(model, images[:2])
    assert len(folded) > 10
    found: list[dict[str, torch.Tensor]] = []
    for within in (False, True):
        torch.manual_seed(1)  # dropouts
        if within:
            with folded.step():
                answer = model(images)
        else:
            answer = model(images)
        nn.functional.cross_entropy(answer, torch.arange(4) % 3).backward()  # type: ignore[no-untyped-call]
        found.append({name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None})
        model.zero_grad()
    assert found[0].keys() == found[1].keys() == dict(model.named_parameters()).keys()
    for name, wanted in found[0].items():
        assert float((found[1][name] - wanted).norm()) <= 2e-2 * float(wanted.norm()) + 1e-6, name
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_scale_that_trains_alone_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    apply_phase(model, ["1.weight", "1.bias"], "frozen")  # `norm`, of the first
    folded = FoldedSteps(model, noise(2, 8, CPU))
    with folded.step():
        assert "forward" not in vars(model[0]) and "forward" in vars(model[2])
    assert len(folded) == 1


def test_a_step_that_fails_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    folded = FoldedSteps(model, noise(2, 8, CPU))
    with pytest.raises(RuntimeError), folded.step():
        model(torch.zeros(1, 5, 8, 8))
    assert isinstance(model[0].weight, nn.Parameter) and "forward" not in vars(model[0])
    model(noise(2, 8, CPU))
