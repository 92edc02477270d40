"""LoRA: adapters where they do something, the same function before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import refused

from zoo import BuildSpec, Experiment, Network, Plugins, UsageError, train
from zoo.config.grammar import parse
from zoo.networks.building import build_network, read_state
from zoo.stage import check_anatomy
from zoo_lora.adapters import attach, merge

SIZES = {
    "torchvision/resnet18": 32,
    "torchvision/swin_t": 32,
    "torchvision/vit_b_16": 32,
    "lite/efficientnet_lite0": 32,
    "timm/vit_tiny_patch16_224": 32,
    "timm/convnext_atto": 32,
}


def build(name: str, size: int, plugins: Plugins) -> tuple[Network, BuildSpec]:
    torch.manual_seed(0)
    network = build_network(plugins.backbones.find(name).value, classes=3, image_size=size)
    return network, BuildSpec(backbone=name, classes=3, image_size=size)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_adapters_start_as_nothing_reach_the_output_and_fold_in(name: str, size: int, plugins: Plugins) -> None:
    network, spec = build(name, size, plugins)
    before, names = network.anatomy, [name for name, _ in network.model.named_parameters()]
    images = torch.randn(2, 3, size, size)
    network.model.eval()
    with torch.no_grad():
        plain = network.model(images)
    attached = attach(network, spec, rank=2, alpha=4.0)
    check_anatomy(attached.anatomy, [name for name, _ in attached.model.named_parameters()])
    assert attached.anatomy.added and attached.anatomy.names == before.names and attached.anatomy.head == before.head
    with torch.no_grad():
        assert torch.equal(attached.model(images), plain)
    parameters = dict(attached.model.named_parameters())
    for added in attached.anatomy.added:
        parameters[added].requires_grad_(True)
        if ".lora_B." in added:
            torch.nn.init.normal_(parameters[added], std=0.05)
    torch.nn.init.normal_(parameters[before.head.parameters[0]], std=0.5)
    changed = attached.model(images)
    changed.square().sum().backward()
    for added in attached.anatomy.added:
        gradient = parameters[added].grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), added
    merged = merge(attached)
    assert [name for name, _ in merged.model.named_parameters()] == names and merged.anatomy == before
    with torch.no_grad():
        assert torch.allclose(merged.model(images), changed, atol=1e-3 * float(changed.detach().abs().max()))
        assert not torch.allclose(changed, plain, atol=1e-3)


def test_an_adapter_stands_in_the_stage_of_its_layer(plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    attached = attach(network, spec, rank=2, alpha=4.0)
    for stage in attached.anatomy.stages:
        for name in stage.parameters:
            assert stage.name == ("stem" if name.startswith(("conv1.", "bn1.")) else name.split(".")[0])


def test_layers_that_are_no_wider_than_the_rank_are_left(plugins: Plugins) -> None:
    network, spec = build("lite/efficientnet_lite0", 32, plugins)
    narrow = {name for name in attach(network, spec, rank=20, alpha=4.0).anatomy.added if "blocks.0." in name}
    assert not narrow  # 16 channels wide
    other, spec = build("lite/efficientnet_lite0", 32, plugins)
    with refused(UsageError, "`efficientnet_lite0`", "rank 5000"):
        attach(other, spec, rank=5000, alpha=4.0)


def test_layers_that_compute_something_else_with_their_weight_are_left(plugins: Plugins) -> None:
    network, spec = build("timm/resnetv2_50x1_bit", 32, plugins)  # its convolutions standardise their weights
    with refused(UsageError, "`resnetv2_50x1_bit`", "layer", "rank 2"):
        attach(network, spec, rank=2, alpha=4.0)


def test_lora_cannot_be_used_twice(plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    with refused(UsageError, "`lora`", "twice"):
        parse("lora:2+lora:4", plugins.strategies).attach(network, spec)


def test_without_peft_it_says_what_to_install(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    monkeypatch.setitem(sys.modules, "peft", None)
    with refused(UsageError, "`lora`", "peft", "installed") as error:
        parse("lora:2", plugins.strategies).attach(network, spec)
    assert "backbone-zoo[lora]" in str(error.value.hint)


def test_listing_it_imports_neither_peft_nor_torch() -> None:
    code = (
        "import sys; from zoo_cli.main import run; assert run(['list', 'strategies', 'lora']) == 0; "
        "print(sorted({'peft', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_run_leaves_the_backbone_s_own_network(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    settings: dict[str, Any] = {
        "data": str(two_splits),
        "backbone": "timm/test_resnet",
        "weights": "none",
        "image_size": 32,
    }
    run = train(
        Experiment(**settings, strategy="lora:4", epochs=2, device="cpu"),
        out=tmp_path / "run",
        plugins=plugins,
    )
    state = read_state(run.path / "model.safetensors")
    assert not any("lora" in name for name in state)
    assert sorted(state) == sorted(
        build_network(plugins.backbones.find("timm/test_resnet").value, classes=2).model.state_dict()
    )
