"""Weights from a file, and image sizes that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.backbone import Backbone, BuildSpec, Network
from zoo.errors import UsageError, ZooError
from zoo.networks.building import build_network
from zoo.stage import cut


class Small(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 8 == 0, "the size is a multiple of 8"
        logits: Tensor = self.fc(self.norm(self.conv(x)).mean((2, 3)))
        return logits


def build(spec: BuildSpec) -> Network:
    model = Small(spec.classes)
    names = [name for name, _ in model.named_parameters()]
    anatomy = cut(spec.backbone, names, groups=[names[:4]], head={"fc.weight", "fc.bias"})
    return Network(model, anatomy, lambda state: {name.replace("old", "conv"): value for name, value in state.items()})


ROW = Backbone(name="small", summary="a small network", build=build)


def test_a_file_is_loaded_head_and_all_where_it_fits(tmp_path: Path) -> None:
    state = build_network(ROW, classes=5).model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt")
    for file in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        loaded = build_network(ROW, classes=5, weights_file=file).model.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_head_of_other_classes_is_left_at_its_start(tmp_path: Path) -> None:
    state = build_network(ROW, classes=5).model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = build_network(ROW, classes=3, weights_file=tmp_path / "w.safetensors").model.state_dict()
    assert torch.equal(loaded["conv.weight"], state["conv.weight"])
    assert loaded["fc.weight"].shape == (3, 4)


def test_old_names_are_translated(tmp_path: Path) -> None:
    state = build_network(ROW, classes=5).model.state_dict()
    save_file({name.replace("conv", "old"): value for name, value in state.items()}, tmp_path / "w.safetensors")
    loaded = build_network(ROW, classes=5, weights_file=tmp_path / "w.safetensors").model.state_dict()
    assert torch.equal(loaded["conv.weight"], state["conv.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv.weight"), "`conv.weight` is missing from the file"),
        (lambda state: state.update({"conv.bias": torch.zeros(9)}), r"`conv.bias` has shape \(9,\) in the file"),
    ],
)
def test_a_file_of_another_network(tmp_path: Path, change: object, message: str) -> None:
    state = build_network(ROW, classes=5).model.state_dict()
    change(state)  # type: ignore[operator]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ZooError, match=message):
        build_network(ROW, classes=5, weights_file=tmp_path / "w.safetensors")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (
        ("text.safetensors", "cannot be read as weights"),
        ("text.pt", "cannot be read as weights"),
        ("list.pt", "holds no state dict"),
        ("nowhere.pt", "there is no file"),
    ):
        with pytest.raises(ZooError, match=message):
            build_network(ROW, classes=5, weights_file=tmp_path / name)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(ZooError, match="cannot be read as weights"):
        build_network(ROW, classes=5, weights_file=tmp_path / "code.pt")


def test_an_image_size_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="`small` cannot take images of 30 pixels: the size is a multiple of 8"):
        build_network(ROW, classes=5, image_size=30)
    network = build_network(ROW, classes=5, image_size=32)
    assert network.model.training
    assert torch.equal(network.model.get_buffer("norm.running_mean"), torch.zeros(4)), (
        "trying a size moves no statistics"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("module.pt", "it holds pickled objects, not only tensors"),
        ("text.pt", "it is not a file of weights"),
        ("empty.pt", "it is empty"),
        ("cut.pt", "it is damaged"),
        ("numbers.pt", "holds no state dict"),
        ("folder", "is a folder"),
    ],
)
def test_errors_of_unreadable_files_are_worded_by_zoo(tmp_path: Path, name: str, reason: str) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({101: torch.zeros(2)}, tmp_path / "numbers.pt")
    (tmp_path / "text.pt").write_text("hello world")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "cut.pt").write_bytes((tmp_path / "module.pt").read_bytes()[:300])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ZooError) as error:
        build_network(ROW, classes=3, weights_file=tmp_path / name)
    assert reason in error.value.message and "weights_only" not in error.value.message
