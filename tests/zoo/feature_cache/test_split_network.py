"""Split networks: where the frozen prefix ends, and equal results with and without the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from zoo import Experiment, Network, Plugins, Run, train
from zoo.feature_cache.loader import default_views
from zoo.feature_cache.split_network import SplitNetwork, block_size, prefix_in_blocks
from zoo.networks.building import build_network
from zoo.networks.freezing import apply_phase
from zoo.progress import Silent
from zoo.storage.tensor_store import SUFFIX

# Of both libraries, convolutional and not; (name, pixels). Where the cut lies does not depend on the size
NETWORKS = [
    *[(f"torchvision/{name}", 64) for name in (
        "resnet18", "alexnet", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5",
        "shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf", "swin_t", "convnext_tiny",
    )],
    ("small/vit", 32),
    ("torchvision/googlenet", 96),
    ("torchvision/inception_v3", 96),
    ("lite/efficientnet_lite0", 64),
    *[(f"timm/{name}", 64) for name in (
        "resnet18", "convnext_atto", "mobilenetv4_conv_small", "repvgg_a0", "regnetx_002", "densenet121",
        "edgenext_xx_small", "poolformer_s12", "xception41", "mobilevit_xxs", "efficientvit_b0",
        "tf_efficientnet_lite0",
    )],
    *[(f"timm/{name}_patch16_224", 32) for name in ("vit_tiny", "deit_tiny", "deit_tiny_distilled")],
    ("timm/pvt_v2_b0", 64),
    ("timm/mixer_s32_224", 224),
    ("timm/levit_128s", 224),
]  # fmt: skip
LARGE = [("torchvision/vit_b_16", 64)]  # seconds to build; `small/vit` is the same class
# How many stages train, counted from the head; each network is cut at one of these on every push, and at all in `slow`
STAGES = (1, 2, 3)
CUTS = [
    pytest.param(
        name, size, stages, id=f"{name}-{stages}",
        marks=() if (name, size) not in LARGE and stages == STAGES[place % 3] else pytest.mark.slow,
    )
    for place, (name, size) in enumerate([*NETWORKS, *LARGE]) for stages in STAGES
]  # fmt: skip


@pytest.fixture(scope="module")
def plugins(small_plugins: Plugins) -> Plugins:
    return small_plugins


def build(name: str, size: int, plugins: Plugins) -> Network:
    torch.manual_seed(0)
    sized = name.rpartition("/")[2] not in ("mixer_s32_224", "levit_128s")
    network = build_network(
        plugins.backbones.find(name).value, classes=3, image_size=size if sized else None, drop_path=None
    )
    network.model.to(memory_format=torch.channels_last)
    return network


def noise(size: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "size", "stages"), CUTS)
def test_the_cut_lies_where_the_frozen_stages_end(name: str, size: int, stages: int, plugins: Plugins) -> None:
    network = build(name, size, plugins)
    late = set(network.anatomy.parameters_of([*network.anatomy.names[-stages:], "head"]))
    apply_phase(network.model, late, "train")
    cut = SplitNetwork(network.model, late, noise(size), None)
    every = {name for name, _ in network.model.named_parameters()}
    # not one frozen parameter is computed with in the rest, not one that trains in the prefix
    assert cut.trainable == late and cut.frozen == every - late
    assert all(end.bytes > 0 for end in cut.boundary)


class Skips(nn.Module):
    """Several tensors cross, one of them by way of the count of images, and one constant is used on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.early = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1), requires_grad=False)
        self.drop = nn.Dropout(0.5)
        self.late = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.stem(x)
        two = self.early(one) * self.scale
        count = x.shape[0]
        three = self.late(self.drop(two)) + one * self.scale
        both = torch.cat([three.mean((2, 3)), one.mean((2, 3))], 1)
        return self.fc(both.reshape(count, -1))  # type: ignore[no-any-return]


LATE = {"late.weight", "late.bias", "fc.weight", "fc.bias"}


def test_several_tensors_may_cross_and_randomness_stays_in_the_rest() -> None:
    model = Skips().train()
    apply_phase(model, LATE, "train")
    model.drop.train()
    cut = SplitNetwork(model, LATE, noise(8), None)
    assert len(cut.boundary) == 3 and cut.frozen == {"stem.weight", "stem.bias", "early.weight", "early.bias", "scale"}
    answers = []
    for whole in (True, False):
        torch.manual_seed(7)
        rows = cut.prefix(noise(8, 5))
        answers.append(model(noise(8, 5)) if whole else cut.rest(*rows))
    assert torch.equal(*answers)
    assert len({float(cut.rest(*rows).detach().sum()) for _ in range(4)}) == 4  # the dropout is alive


def test_gradients_of_the_rest_are_those_of_the_network(plugins: Plugins) -> None:
    network = build("timm/resnet18", 64, plugins)
    late = network.anatomy.parameters_of([*network.anatomy.names[-2:], "head"])
    apply_phase(network.model, late, "frozen")
    cut = SplitNetwork(network.model, late, noise(64), None)
    found = []
    for forward in (network.model, lambda images: cut.rest(*cut.prefix(images))):
        network.model.zero_grad()
        forward(noise(64, 4)).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in network.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == set(late)
    # up to the roundings of the prefix, whose batch norms are folded
    for name in late:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4 * float(found[0][name].norm()))


class Statistic(Skips):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.stem(x)
        return self.fc(self.late(one - one.mean(0)).mean((2, 3)).repeat(1, 2))  # type: ignore[no-any-return]


class ByValue(Skips):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.stem(x)
        return super().forward(x if one.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("model", "late", "reason"),
    [
        (Statistic(), LATE, "mixes the images of a batch"),
        (ByValue(), LATE, "symbolically traced"),
        (Skips(), {"stem.weight"}, "no layer is frozen"),
    ],
)
def test_networks_that_cannot_be_split_raise_with_a_reason(model: nn.Module, late: set[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SplitNetwork(model.eval(), late, noise(8), None)


def test_the_digest_follows_what_is_frozen_and_nothing_else() -> None:
    model = Skips().eval()
    cut = SplitNetwork(model, LATE, noise(8), None)
    before = cut.digest()
    with torch.no_grad():
        model.late.weight.add_(1)
    assert cut.digest() == before and cut.unchanged()
    with torch.no_grad():
        model.early.weight[0, 0, 0, 0] += 1
    assert not cut.unchanged()
    assert SplitNetwork(model, LATE, noise(8), None).digest() != before


def test_the_digest_follows_code_that_changed() -> None:
    """An author's plugin: the same weights and layers, another forward within one of them."""

    class Scaled(nn.Conv2d):
        by = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.by

    model = Skips().eval()
    model.early = Scaled(4, 4, 3, padding=1)
    before = SplitNetwork(model, LATE, noise(8), None).digest()
    assert SplitNetwork(model, LATE, noise(8), None).digest() == before
    model.early.by = 2.0
    assert SplitNetwork(model, LATE, noise(8), None).digest() != before


class Odd(Skips):
    """Works whole, and not when it is traced: what it does in its own way is no reason to fail."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise KeyError("a library's own trouble")
        return super().forward(x)


def test_any_error_while_splitting_disables_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a library's own trouble"):
        SplitNetwork(Odd().eval(), LATE, noise(8), None)
    monkeypatch.setattr(SplitNetwork, "rest", lambda self, *rows: 1 / 0)
    model = Skips().train()
    state, statistics = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        SplitNetwork(model, LATE, noise(8), None)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("batch", "block"), [(1, 1), (7, 7), (32, 32), (64, 32), (48, 24), (37, 32), (100, 25)])
def test_blocks_fit_batches(batch: int, block: int) -> None:
    assert block_size(batch, 32) == block


def test_rows_do_not_depend_on_other_images_of_the_batch() -> None:
    model = Skips().eval()
    cut = SplitNetwork(model, LATE, noise(8), None)
    images = noise(8, 11)
    whole = prefix_in_blocks(cut, images, 4)
    for order in (torch.arange(11).flip(0), torch.tensor([3, 3, 9])):
        some = prefix_in_blocks(cut, images[order], 4)
        assert all(torch.equal(row, every[order]) for row, every in zip(some, whole))


def test_views_grow_with_the_root_of_the_epochs() -> None:
    assert [default_views(epochs) for epochs in (1, 2, 5, 20, 100)] == [1, 1, 2, 4, 10]


# Families whose prefixes are of every kind: plain and strided, concatenated, depthwise, wide kernels, tokens, windows.
# Small networks have the code of the large ones, but perhaps not their kernels: some large ones on every push as well
SMALL = {
    "timm/test_resnet": 32, "small/densenet": 64, "timm/test_efficientnet": 32, "timm/test_convnext": 64,
    "small/vit": 32, "small/swin": 64,
}  # fmt: skip
FAMILIES = {
    "timm/resnet18": 64, "torchvision/densenet121": 64, "lite/efficientnet_lite0": 64, "timm/convnext_atto": 64,
    "timm/vit_tiny_patch16_224": 32, "torchvision/swin_t": 64,
}  # fmt: skip
PRECISIONS = [("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 2)]
ON_EVERY_PUSH = {
    *[(name, *PRECISIONS[place % 4]) for place, name in enumerate(SMALL)],
    ("timm/test_efficientnet", "bf16", 2),
    ("lite/efficientnet_lite0", "fp32", 1),
    ("timm/vit_tiny_patch16_224", "fp32", 3),
}
TRAININGS = [
    pytest.param(
        name, size, precision, stages, id=f"{name}-{precision}-{stages}",
        marks=() if (name, precision, stages) in ON_EVERY_PUSH else pytest.mark.slow,
    )
    for name, size in {**SMALL, **FAMILIES}.items() for precision, stages in PRECISIONS
]  # fmt: skip


def experiment(data: Path, name: str, size: int, stages: int, **settings: Any) -> Experiment:
    return Experiment(
        data=str(data), backbone=name, strategy=f"partial:{stages}", weights="none", image_size=size, batch_size=8,
        device="cpu", **{"epochs": 2, **settings},
    )  # fmt: skip


def outcome(run: Run) -> tuple[Any, ...]:
    return (
        [line["train_loss"] for line in run.history],
        run.record["weights_sha256"],
        run.predictions().logits.tobytes(),
    )


@pytest.mark.parametrize(("name", "size", "precision", "stages"), TRAININGS)
def test_stored_and_unstored_training_are_equal_bit_for_bit(
    name: str, size: int, precision: str, stages: int, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    asked = experiment(two_splits, name, size, stages, precision=precision)
    caches: tuple[Literal["on", "off"], ...] = ("on", "on", "off")
    runs = [
        train(replace(asked, cache=cache), out=tmp_path / str(number), plugins=plugins)
        for number, cache in enumerate(caches)
    ]
    computed, stored, unstored = map(outcome, runs)
    assert computed == stored == unstored
    seconds = [run.record["seconds"]["of_train"] for run in runs]
    assert seconds[1]["prefix"] == 0.0 and seconds[2]["prefix"] > 0.0  # out of the store, and computed


def test_a_flipped_byte_in_the_store_changes_no_result(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    asked = experiment(two_splits, "timm/test_resnet", 32, 1, cache="on")
    first = train(asked, out=tmp_path / "first", plugins=plugins)
    files = sorted(tmp_path.glob(f"cache/store/*/*{SUFFIX}"))
    assert files
    for number, file in enumerate(files):
        whole = bytearray(file.read_bytes())
        whole[-1 - 13 * number] ^= 0x40
        file.write_bytes(bytes(whole))
    again = train(asked, out=tmp_path / "again", plugins=plugins)
    assert outcome(first) == outcome(again) and again.record["seconds"]["of_train"]["prefix"] > 0.0


def test_an_image_that_changed_is_computed_again(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests_support import COLOURS, make_photos, paint

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    data = make_photos(tmp_path / "data", {"train": 8, "val": 4})
    asked = experiment(data, "timm/test_resnet", 32, 1, cache="on")
    train(asked, out=tmp_path / "first", plugins=plugins)
    paint(COLOURS["red"], 99).save(data / "train" / "red" / "003.jpg")
    changed = train(asked, out=tmp_path / "changed", plugins=plugins)
    unstored = train(replace(asked, cache="off"), out=tmp_path / "unstored", plugins=plugins)
    assert outcome(changed) == outcome(unstored)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    warn = note


@pytest.mark.parametrize("trouble", ["budget", "unwritable", "no home"])
def test_a_failing_store_does_not_change_results(
    trouble: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    told = Told()
    asked = experiment(two_splits, "timm/test_resnet", 32, 1, cache="on")
    with pytest.MonkeyPatch.context() as patch:
        if trouble == "budget":
            patch.setenv("ZOO_CACHE_BUDGET", "0")
        elif trouble == "unwritable":
            (tmp_path / "file").write_text("no folder")
            patch.setenv("ZOO_CACHE", str(tmp_path / "file"))
        else:
            patch.delenv("ZOO_CACHE")
            patch.delenv("HOME", raising=False)
            patch.setattr("zoo.storage.tensor_store.cache_folder", lambda: None)
        run = train(asked, out=tmp_path / "run", plugins=plugins, progress=told)
    unstored = train(replace(asked, cache="off"), out=tmp_path / "unstored", plugins=plugins)
    assert outcome(run) == outcome(unstored)
    assert any("computed in every epoch" in line for line in told.lines)


def test_seconds_are_recorded_by_kind(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = experiment(two_splits, "timm/test_resnet", 32, 1)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    (first, second) = run.history
    assert set(first["seconds"]) == {"data", "prefix", "store", "rest", "evaluate"}
    assert second["seconds"]["prefix"] == 0.0 and second["seconds"]["rest"] > 0.0


def test_a_phase_that_mixes_images_is_not_cut(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = replace(experiment(two_splits, "timm/test_resnet", 32, 1), strategy="partial:1,mixup=0.2")
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    assert all(line["seconds"]["prefix"] == line["seconds"]["store"] == 0.0 for line in run.history)


@pytest.mark.parametrize("strategy", ["full", "surgical:1"])
def test_cache_on_without_a_frozen_prefix_is_noted(
    strategy: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    told = Told()
    asked = replace(experiment(two_splits, "timm/test_resnet", 32, 1, cache="on", epochs=1), strategy=strategy)
    train(asked, out=tmp_path / "run", plugins=plugins, progress=told)
    assert [line for line in told.lines if "`--cache on`" in line]


def test_a_run_resumed_from_the_store_has_the_same_weights(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    """The views of a run that is cut are the same in every session, stored or not."""
    from zoo import resume

    asked = experiment(two_splits, "timm/test_resnet", 32, 1, epochs=5, save_every=0.0)
    whole = train(asked, out=tmp_path / "whole", plugins=plugins)

    class Stops(Exception):
        pass

    class Killed:
        epochs = 0

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments, **words: None

        def epoch(self, record: dict[str, Any]) -> None:
            self.epochs += 1
            if self.epochs == 3:
                raise Stops

    with pytest.raises(Stops):
        train(asked, out=tmp_path / "killed", plugins=plugins, progress=Killed())
    resumed = resume(tmp_path / "killed", plugins=plugins)
    assert resumed.record["weights_sha256"] == whole.record["weights_sha256"]
    assert np.array_equal(resumed.predictions().logits, whole.predictions().logits)
