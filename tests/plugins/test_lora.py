"""LoRA, DoRA and IA3: adapters where they do something, the same function before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import refused
from peft.tuners.lora import Conv2d

from zoo import BuildSpec, Experiment, Network, Plugins, UsageError, train
from zoo.config.grammar import parse
from zoo.networks.building import build_network, read_state
from zoo.stage import check_anatomy
from zoo.training.optimizer import plan_groups
from zoo_lora.pointwise import PointwiseConv2d

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


# One family for `dora` and `ia3` where all three share the code
CASES = [("lora:2", name) for name in SIZES] + [
    (text, name)
    for text in ("dora:2", "ia3")
    for name in ("timm/vit_tiny_patch16_224", "timm/convnext_atto", "lite/efficientnet_lite0")
]


@pytest.mark.parametrize(("text", "name"), CASES)
def test_adapters_start_as_nothing_reach_the_output_and_fold_in(text: str, name: str, plugins: Plugins) -> None:
    size = SIZES[name]
    network, spec = build(name, size, plugins)
    strategy = parse(text, plugins.strategies)
    before, names = network.anatomy, [name for name, _ in network.model.named_parameters()]
    images = torch.randn(2, 3, size, size)
    network.model.eval()
    with torch.no_grad():
        plain = network.model(images)
    attached = strategy.attach(network, spec)
    check_anatomy(attached.anatomy, [name for name, _ in attached.model.named_parameters()])
    assert attached.anatomy.added and attached.anatomy.names == before.names and attached.anatomy.head == before.head
    rounding = 1e-5 * float(plain.abs().max()) if text == "dora:2" else 0.0  # it divides lengths by themselves
    with torch.no_grad():
        assert (attached.model(images) - plain).abs().max() <= rounding
    parameters = dict(attached.model.named_parameters())
    for added in attached.anatomy.added:
        parameters[added].requires_grad_(True)
        if ".lora_B." in added:
            torch.nn.init.normal_(parameters[added], std=0.05)
        elif ".lora_A." not in added:
            with torch.no_grad():
                parameters[added].mul_(torch.empty_like(parameters[added]).uniform_(0.7, 1.3))
    torch.nn.init.normal_(parameters[before.head.parameters[0]], std=0.5)
    changed = attached.model(images)
    changed.square().sum().backward()
    for added in attached.anatomy.added:
        gradient = parameters[added].grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), added
    merged = strategy.merge(attached)
    assert [name for name, _ in merged.model.named_parameters()] == names and merged.anatomy == before
    with torch.no_grad():
        assert torch.allclose(merged.model(images), changed, atol=1e-3 * float(changed.detach().abs().max()))
        assert not torch.allclose(changed, plain, atol=1e-3)


def test_an_adapter_stands_in_the_stage_of_its_layer(plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    attached = parse("lora:2", plugins.strategies).attach(network, spec)
    for stage in attached.anatomy.stages:
        for name in stage.parameters:
            assert stage.name == ("stem" if name.startswith(("conv1.", "bn1.")) else name.split(".")[0])


def test_layers_that_are_no_wider_than_the_rank_are_left(plugins: Plugins) -> None:
    network, spec = build("lite/efficientnet_lite0", 32, plugins)
    narrow = {
        name for name in parse("lora:20", plugins.strategies).attach(network, spec).anatomy.added if "blocks.0." in name
    }
    assert not narrow  # 16 channels wide
    other, spec = build("lite/efficientnet_lite0", 32, plugins)
    with refused(UsageError, "`efficientnet_lite0`", "rank 5000"):
        parse("lora:5000", plugins.strategies).attach(other, spec)


@pytest.mark.parametrize(("text", "words"), [("lora:2", "rank 2"), ("dora:2", "rank 2"), ("ia3", "`ia3`")])
def test_layers_that_compute_something_else_with_their_weight_are_left(text: str, words: str, plugins: Plugins) -> None:
    network, spec = build("timm/resnetv2_50x1_bit", 32, plugins)  # its convolutions standardise their weights
    with refused(UsageError, "`resnetv2_50x1_bit`", "layer", words):
        parse(text, plugins.strategies).attach(network, spec)


def test_a_layer_is_not_scaled_because_its_path_ends_as_another_s(plugins: Plugins) -> None:
    network, spec = build("timm/vit_tiny_patch16_224", 32, plugins)
    attached = parse("ia3", plugins.strategies).attach(network, spec)
    widths = {
        path: module.ia3_l["default"].numel()
        for path, module in attached.model.named_modules()
        if hasattr(module, "ia3_l")
    }
    assert widths["blocks.3.attn.qkv"] == 3 * 192 and widths["blocks.3.mlp.fc1"] == 768  # outputs
    assert widths["blocks.3.mlp.fc2"] == 768  # its inputs, the hidden units
    assert widths["blocks.3.attn.proj"] == 192 and widths["patch_embed.proj"] == 192
    assert not any(path.startswith("head") for path in widths)


def test_weights_that_are_all_zero_have_no_direction(plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    with torch.no_grad():
        network.model.get_submodule("layer1.0.conv1").get_parameter("weight")[3] = 0
    attached = parse("dora:2", plugins.strategies).attach(network, spec)
    assert not any(name.startswith("layer1.0.conv1.") for name in attached.anatomy.added)
    assert any(name.startswith("layer1.0.conv2.") for name in attached.anatomy.added)
    assert attached.model.eval()(torch.zeros(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("text", ["dora:2", "ia3"])
def test_factors_and_lengths_do_not_decay(text: str, plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    strategy = parse(text, plugins.strategies)
    attached = strategy.attach(network, spec)
    (phase,) = strategy.phases(attached.anatomy)
    groups = plan_groups(attached, phase, Experiment(data="x", backbone="y", strategy=text), 0.01)
    assert {group.weight_decay for group in groups if attached.anatomy.added.intersection(group.names)} == {0.0}
    assert max(group.weight_decay for group in groups) > 0  # of the head


@pytest.mark.parametrize(
    ("text", "again"), [("lora:2+lora:4", "lora"), ("lora:2+dora:2", "dora"), ("dora:2+ia3", "ia3")]
)
def test_adapters_cannot_be_used_twice(text: str, again: str, plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    with refused(UsageError, f"`{again}`", "other adapters"):
        parse(text, plugins.strategies).attach(network, spec)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
def test_without_peft_it_says_what_to_install(name: str, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    monkeypatch.setitem(sys.modules, "peft", None)
    with refused(UsageError, f"`{name}`", "peft", "installed") as error:
        parse(name, plugins.strategies).attach(network, spec)
    assert "backbone-zoo[lora]" in str(error.value.hint)


def test_listing_it_imports_neither_peft_nor_torch() -> None:
    code = (
        "import sys; from zoo_cli.main import run; assert run(['list', 'strategies', 'ia3']) == 0; "
        "print(sorted({'peft', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["lora:4", "dora:4", "ia3"])
def test_a_run_leaves_the_backbone_s_own_network(text: str, two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    settings: dict[str, Any] = {
        "data": str(two_splits),
        "backbone": "timm/test_resnet",
        "weights": "none",
        "image_size": 32,
    }
    run = train(
        Experiment(**settings, strategy=text, epochs=2, device="cpu"),
        out=tmp_path / "run",
        plugins=plugins,
    )
    state = read_state(run.path / "model.safetensors")
    assert not any("lora" in name or "ia3" in name for name in state)
    assert sorted(state) == sorted(
        build_network(plugins.backbones.find("timm/test_resnet").value, classes=2).model.state_dict()
    )


def test_pointwise_convolutions_compute_as_peft_does(plugins: Plugins) -> None:
    network, spec = build("lite/efficientnet_lite0", 32, plugins)
    model = parse("lora:2", plugins.strategies).attach(network, spec).model.eval()
    added = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    for value in added.values():
        torch.nn.init.normal_(value.requires_grad_(True), std=0.05)
    images = torch.randn(2, 3, 32, 32)

    def gradients() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits: torch.Tensor = model(images)
        found = torch.autograd.grad(logits.square().mean(), list(added.values()))
        return logits.detach(), dict(zip(added, found, strict=True))

    quick: list[Any] = [module for module in model.modules() if isinstance(module, PointwiseConv2d)]
    frozen = [module.get_base_layer().weight for module in quick]
    logits, ours = gradients()
    assert [module.get_base_layer().weight for module in quick] == frozen and len(quick) > 20  # they are put back
    for module in quick:
        module.__class__ = Conv2d
    expected, theirs = gradients()
    assert torch.allclose(logits, expected, atol=1e-5 * float(expected.abs().max()))
    assert not any(isinstance(module, PointwiseConv2d) for module in model.modules())
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, atol=1e-4 * float(gradient.abs().max())), name


@pytest.mark.parametrize("text", ["lora:2", "dora:2"])
def test_convolutions_with_gaps_or_reflected_borders_fold_into_what_was_trained(text: str, plugins: Plugins) -> None:
    network, spec = build("torchvision/resnet18", 32, plugins)
    block: Any = network.model.get_submodule("layer1.0")
    block.conv1.dilation = block.conv1.padding = (2, 2)
    block.conv2.padding_mode, block.conv2._reversed_padding_repeated_twice = "reflect", [1, 1, 1, 1]
    strategy = parse(text, plugins.strategies)
    attached = strategy.attach(network, spec)
    assert hasattr(block.conv1, "lora_A") and not hasattr(block.conv2, "lora_A")
    for name, value in attached.model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(value, mean=0.05, std=0.05)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        trained = attached.model.eval()(images)
        folded = strategy.merge(attached).model.eval()(images)
    assert torch.allclose(folded, trained, atol=1e-4 * float(trained.abs().max()))
