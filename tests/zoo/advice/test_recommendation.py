"""What one forward pass tells: stages, probes, distances, and the strategy that follows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refused
from scipy.stats import binomtest, norm
from tests_support import make_photos
from torch import nn

from zoo import Experiment, Plugins, Study, UsageError, ZooError, advise
from zoo.advice import borrowed_distance as borrowing
from zoo.advice import recommendation
from zoo.advice.borrowed_distance import MEASURER, borrowed_distance
from zoo.advice.domain_distance import NormRecorder, by_stage, divergence
from zoo.advice.probing import StageRecorder, pooled, probe
from zoo.advice.recommendation import mean_ranks
from zoo.advice.strategy_suggestion import MARGIN, StageAdvice, suggest_strategy
from zoo.advice.track_record import track_record
from zoo.backbone import is_at_hand
from zoo.evaluation.statistics import paired_difference_interval
from zoo.networks.building import build_network
from zoo.progress import Silent
from zoo.studies.results import Results
from zoo_cli.main import run as zoo


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "torchvision/swin_t"])
def test_every_stage_gives_a_vector_an_image(name: str, plugins: Plugins) -> None:
    backbone = plugins.backbones.find(name).value
    network = build_network(backbone, classes=2, image_size=None if "swin" in name else 64)
    network.model.eval()
    side = 64 if "swin" not in name else 224
    with StageRecorder(network) as watch:
        for seed in (0, 1):
            watch.record(torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(seed)))
    found = watch.features()
    assert list(found) == list(network.anatomy.names)
    assert all(value.shape[0] == 6 and value.shape[1] > 1 and np.isfinite(value).all() for value in found.values())
    alone = {}
    with StageRecorder(network) as watch:
        watch.record(torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))[:1])
        alone = watch.features()
    for stage, value in found.items():  # a row is its image's own
        assert np.allclose(alone[stage][0], value[3], atol=1e-4)


def test_stage_outputs_are_averaged_over_positions() -> None:
    maps = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    assert torch.equal(pooled(maps, 2), maps.float().mean((2, 3)))
    assert torch.equal(pooled(maps.permute(0, 2, 3, 1), 2), maps.float().mean((2, 3)))
    assert pooled(torch.randn(2, 7, 5), 2).shape == (2, 5)
    assert pooled(torch.randn(8, 7, 5), 2).shape == (2, 5)  # four windows an image
    assert pooled(torch.randn(2, 9000), 2).shape == (2, 2048)


def test_a_probe_is_held_out() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    noise = generator.normal(size=(200, 300))
    assert abs(probe(noise, labels).mean() - 0.5) < 0.12  # wide enough to fit anything that it is shown
    assert probe(noise + 2 * labels[:, None] * (np.arange(300) < 5), labels).mean() > 0.85


def test_a_divergence_is_that_of_gaussians() -> None:
    """Against the closed form of torch.distributions, both ways round."""
    mean, mean_ = torch.randn(7, dtype=torch.double), torch.randn(7, dtype=torch.double)
    variance, variance_ = torch.rand(7, dtype=torch.double) + 0.1, torch.rand(7, dtype=torch.double) + 0.1
    one, other = (torch.distributions.Normal(m, v.sqrt()) for m, v in ((mean, variance), (mean_, variance_)))
    kl = torch.distributions.kl_divergence
    assert divergence(mean, variance, mean_, variance_) == pytest.approx(
        float((kl(one, other) + kl(other, one)).mean() / 2)
    )
    assert divergence(mean, variance, mean, variance) == 0


def test_source_data_lie_at_no_distance(plugins: Plugins) -> None:
    """Statistics that were learnt from a batch are those of that batch; of another they are not."""
    network = build_network(plugins.backbones.find("timm/test_resnet").value, classes=2)
    batch = torch.rand(32, 3, 64, 64)
    for module in network.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of what was seen
            module.reset_running_stats()
    network.model.train()
    with torch.no_grad():
        network.model(batch)
    network.model.eval()
    found = []
    for seen in (batch, batch**4):
        with NormRecorder(network) as watch, torch.no_grad():
            network.model(seen)
        found.append(by_stage(network, watch.distances()))
    same, other = ([value for value in stage.values() if value is not None] for stage in found)
    assert max(same) < 0.01 and min(other) > 10 * max(same)


Profile = tuple[list[StageAdvice], dict[str, np.ndarray]]


def profile(accuracies: list[float], distance: float | None) -> tuple[list[StageAdvice], dict[str, np.ndarray]]:
    count = 1000
    right = {f"s{n}": np.arange(count) < accuracy * count for n, accuracy in enumerate(accuracies)}
    stages = [
        StageAdvice(name=name, depth=1.0, width=4, accuracy=float(rows.mean()), interval=(0, 1), distance=distance)
        for name, rows in right.items()
    ]
    return stages, {**right, "features": right[f"s{len(accuracies) - 1}"]}


@pytest.mark.parametrize(
    ("accuracies", "distance", "strategy"),
    [
        ([0.6, 0.8, 0.93], 0.1, "linear"),  # like the source
        ([0.6, 0.8, 0.98], 2.0, "linear"),  # nothing left to win
        ([0.6, 0.9, 0.8], 0.1, "truncate:1"),  # what follows loses
        ([0.6, 0.88, 0.94, 0.8], 0.1, "truncate:1"),  # of two that are better, the best
        ([0.6, 0.94, 0.88, 0.8], 0.1, "truncate:2"),
        ([0.6, 0.8, 0.85], 2.0, "full"),  # unlike the source
        ([0.6, 0.85, 0.852, 0.853], 0.3, "partial:2"),  # the last two add nothing
        ([0.6, 0.7, 0.85], 0.3, "full"),  # every stage adds
        ([0.7], None, "linear"),  # there is nothing else
        ([0.6, 0.85, 0.852], None, "partial:1"),  # no batch norms: the profile alone
    ],
)
def test_suggested_strategies(accuracies: list[float], distance: float | None, strategy: str) -> None:
    found, reason = suggest_strategy(*profile(accuracies, distance))
    assert found == strategy and "probe" in reason


def correlated(generator: np.random.Generator, accuracies: list[float], count: int, shared: float) -> Profile:
    """Probes of these true accuracies; `shared` is the correlation of their scores, image by image."""
    hard = generator.normal(size=count)
    right = {}
    for number, accuracy in enumerate(accuracies):
        scores = shared**0.5 * hard + (1 - shared) ** 0.5 * generator.normal(size=count)
        right[f"s{number}"] = scores < norm.ppf(accuracy)
    stages = [
        StageAdvice(name=name, depth=1.0, width=4, accuracy=float(rows.mean()), interval=(0, 1), distance=None)
        for name, rows in right.items()
    ]
    return stages, {**right, "features": right[f"s{len(accuracies) - 1}"]}


@pytest.mark.parametrize(("count", "stages"), [(300, 7), pytest.param(2000, 30, marks=pytest.mark.slow), (300, 30)])
def test_equally_good_stages_are_seldom_cut_off(count: int, stages: int) -> None:
    generator, times = np.random.default_rng(0), 120
    found = [suggest_strategy(*correlated(generator, [0.85] * stages, count, 0.5))[0] for _ in range(times)]
    wrong = sum(strategy.startswith("truncate") for strategy in found)
    assert binomtest(wrong, times, 0.05, alternative="greater").pvalue > 0.05


def test_a_stage_that_loses_is_cut_off() -> None:
    generator = np.random.default_rng(0)
    found = [suggest_strategy(*correlated(generator, [0.6, 0.9, 0.8], 1000, 0.5))[0] for _ in range(50)]
    assert found.count("truncate:1") == 50


@pytest.mark.parametrize("count", [40, 100, 300, 1000])
def test_few_photographs_do_not_say_that_a_stage_adds_nothing(count: int) -> None:
    generator = np.random.default_rng(0)
    rising = [0.55 + 0.04 * number for number in range(9)]  # every stage adds four points
    found = [suggest_strategy(*correlated(generator, rising, count, 0.5)) for _ in range(100)]
    assert sum(strategy.startswith("partial") for strategy, _ in found) <= 5
    told = [reason for strategy, reason in found if strategy == "linear"]
    assert all("do not tell" in reason or "too few photographs are wrong" in reason for reason in told)
    assert bool(told) is (count < 1000) or len(told) < 50


@given(st.integers(20, 400), st.integers(0, 2**32 - 1), st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
def test_whatever_is_said_to_add_nothing_adds_at_most_the_margin(count: int, seed: int, shared: float) -> None:
    stages, right = correlated(np.random.default_rng(seed), [0.8, 0.8, 0.81, 0.82], count, shared)
    strategy, _ = suggest_strategy(stages, right)
    if strategy.startswith("partial"):
        for stage in stages[-1 - int(strategy.removeprefix("partial:")) : -1]:
            assert paired_difference_interval(right["s3"], right[stage.name])[1] <= MARGIN


def test_ranks_are_means_and_unknown_estimates_have_no_vote() -> None:
    assert mean_ranks({"a": [3.0, 1.0, 2.0], "b": [3.0, 2.0, 1.0], "c": [None, 5.0, 9.0]}) == [1.0, 2.5, 2.5]


def test_the_track_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert track_record(tmp_path / "none") is None
    folder = tmp_path / "one"
    folder.mkdir()
    found_there = (("a", 0.9), ("b", 0.8), ("c", 0.7), ("a", 0.5))
    rows = [{"backbone": name, "accuracy": value, "images": 9} for name, value in found_there]
    monkeypatch.setattr(Results, "leaderboard", property(lambda self: {"rows": rows}))
    (folder / "study.json").write_text(json.dumps({"schema": 1, "study": {"data": "x"}, "status": "finished"}))
    ranks = {"b": {"rank": 1.0}, "a": {"rank": 2.0}, "c": {"rank": 3.0}}
    (folder / "advice.json").write_text(json.dumps({"backbones": ranks}))
    found = track_record(tmp_path)
    assert found is not None and found["tau"] == pytest.approx(1 / 3)
    assert found["regret_top_1"] == pytest.approx(0.1) and found["regret_top_3"] == 0


def test_advice_from_photographs(
    two_splits: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Random networks of a test: what is told is whole, not what it says."""
    photos = str(two_splits)
    with pytest.raises(UsageError, match="unknown backbone"):
        advise(photos, ["resnet8"], plugins=plugins)
    with pytest.raises(UsageError, match="no backbone"):
        advise(photos, [], plugins=plugins)
    with pytest.raises(UsageError, match="no photographs"):
        advise(backbones=["resnet18"], plugins=plugins)
    with pytest.raises(UsageError, match="is not a study"):
        advise(study=tmp_path, plugins=plugins)
    code = zoo(["advise", "--data", photos, "--backbone", "hog_color", "--studies", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["shortlist"] == ["classical/hog_color"] and found["images"] == 20
    one = found["backbones"]["classical/hog_color"]
    assert one["distance"] is None and one["stages"][0]["name"] == "histograms" and one["strategy"]
    assert one["knn"] > 0.8  # red and blue


def test_what_was_found_and_what_is_wrong_is_said_once(
    two_splits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(two_splits, data)
    shutil.copy(data / "train/red/003.jpg", data / "train/blue/wrong.jpg")
    (data / "train/red/torn.jpg").write_bytes(b"no photograph")
    cut = data / "train/red/000.jpg"
    cut.write_bytes(cut.read_bytes()[:-2])
    command = ["advise", "--data", str(data), "--studies", str(tmp_path), "--device", "cpu", "--weights", "none"]
    names = ["--backbone", "timm/test_resnet", "--backbone", "timm/test_efficientnet"]
    assert zoo([*command, *names]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("2 classes: blue red; train") == 1 and err.count("is locked as `test`") == 1
    assert err.count("1 image has two labels") == err.count("`train/blue/wrong.jpg`") == 1
    assert err.count("torn.jpg") == 1 == err.count("train/red/000.jpg: lacks its last bytes")


def test_a_class_with_one_training_image(tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]) -> None:
    make_photos(tmp_path, {"train": 8, "val": 2, "test": 1}, classes=("blue", "green", "red"))
    for file in sorted((tmp_path / "train/red").iterdir())[1:]:
        file.unlink()
    command = ["advise", "--data", str(tmp_path), "--weights", "none", "--device", "cpu", "--studies", str(tmp_path)]
    assert zoo([*command, "--backbone", "timm/test_resnet", "--backbone", "hog_color", "--json"]) == 0
    said = capsys.readouterr()
    assert " ".join(said.err.split()).count("1 of 3 classes has one training image, which is never held out") == 1
    assert json.loads(said.out)["images"] == 17
    for file in sorted((tmp_path / "train/green").iterdir())[1:]:
        file.unlink()
    with refused(ZooError, "2 of 3 classes", "one training image"):
        advise(str(tmp_path), ["timm/test_resnet"], weights="none", device="cpu", plugins=plugins)


def test_a_probe_fits_on_a_class_of_one_image_and_never_holds_it_out() -> None:
    """The folds are as many as the rarest class of several images allows; a rare class does not change the others'."""
    generator = np.random.default_rng(0)
    labels = np.array([0, 1] * 50 + [2])
    features = generator.normal(size=(101, 20)) + 1.5 * np.eye(3, 20)[labels]
    right = probe(features, labels)
    assert len(right) == 100 and right.mean() > 0.7
    assert abs(right.mean() - probe(features[:100], labels[:100]).mean()) < 0.1


def test_advice_for_a_study_is_on_the_study_s_images(
    two_splits: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without those that the study leaves out; the list that it keeps counts, not the one that is there now.

    No probe is fitted and scored on images of one group.
    """
    settings = {"image_size": 32, "weights": "none", "exclude": str(tmp_path / "gone.csv"), "group": r"(\d)\.jpg"}
    asked = Study(data=str(two_splits), backbones=("timm/test_resnet",), strategies=("linear",), settings=settings)
    folder = tmp_path / "study"
    folder.mkdir()
    record = {"schema": 1, "study": json.loads(json.dumps(asked.to_json())), "status": "running", "trials": 0}
    (folder / "study.json").write_text(json.dumps(record))
    (folder / "exclude.csv").write_text("id\n" + "".join(f"train/red/00{number}.jpg\n" for number in range(4)))
    whole = advise(str(two_splits), ["timm/test_resnet"], weights="none", image_size=32, plugins=plugins)
    seen: list[Any] = []

    def watched(*arguments: Any, groups: Any = None) -> Any:
        seen.append(groups)
        return probe(*arguments, groups=groups)

    monkeypatch.setattr("zoo.advice.probing.probe", watched)
    found = advise(study=folder, plugins=plugins)
    assert found.images < whole.images
    assert len(seen) == len(found.backbones[0].stages) + 1 and all(one is not None for one in seen)


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_network_without_batch_norms_borrows_the_distance(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those in the comparison that have one, else of an installed one; with random weights there is none."""
    experiment = Experiment(data="photos", backbone="timm/vit_tiny_patch16_224", strategy="linear", image_size=96)
    said = Said()
    asked: list[Experiment] = []

    def measure(one: Experiment, *rest: Any) -> float:
        asked.append(one)
        return 0.7

    monkeypatch.setattr(borrowing, "measured_distance", measure)
    found = borrowed_distance({"a": 0.1, "b": 0.3}, experiment, plugins, said)
    assert found is not None and found.value == pytest.approx(0.2) and found.by == ("a", "b") and not asked
    found = borrowed_distance({}, experiment, plugins, said)
    assert found is not None and found.by == (MEASURER,) and asked[0].backbone == MEASURER
    assert asked[0].image_size is None and asked[0].weights == "default" and asked[0].data == "photos"
    strategy, reason = suggest_strategy(*profile([0.6, 0.85, 0.852], None), found)
    assert strategy == "full" and f"0.70, measured with `{MEASURER}`" in reason
    strategy, reason = suggest_strategy(*profile([0.6, 0.8, 0.93], 0.1), found)  # its own counts
    assert strategy == "linear" and "distance 0.10)" in reason

    def cannot(*arguments: Any) -> float:
        raise ZooError("the images cannot be read")

    monkeypatch.setattr(borrowing, "measured_distance", cannot)
    assert borrowed_distance({}, experiment, plugins, said) is None
    assert MEASURER in said.notes[0] and "the images cannot be read" in said.notes[0]


def test_the_distance_that_is_borrowed_is_the_one_that_its_network_has(
    two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small backbone stands for the installed one; `lacks_distance` is set, since no ViT has weights here."""
    settings: dict[str, Any] = {"weights": "none", "image_size": 32, "device": "cpu", "plugins": plugins}
    estimate = recommendation._estimate

    def pretrained(*arguments: Any, **named: Any) -> Any:
        found = estimate(*arguments, **named)
        known = 0.3 if "resnet" in found.backbone else None
        return replace(found, distance=known, lacks_distance=known is None)

    monkeypatch.setattr(recommendation, "_estimate", pretrained)
    found = advise(str(two_splits), ["timm/test_resnet", "timm/test_vit"], **settings)
    by_name = {one.backbone: one for one in found.backbones}
    assert by_name["timm/test_vit"].distance == 0.3 and by_name["timm/test_vit"].distance_by == ("timm/test_resnet",)
    assert by_name["timm/test_resnet"].distance_by is None
    if is_at_hand(plugins.backbones.find(MEASURER).value, plugins.backbones.find(MEASURER).value.weights[0]):
        alone = advise(str(two_splits), ["timm/test_vit"], **settings).backbones[0]
        assert alone.distance_by == (MEASURER,) and alone.distance is not None and alone.distance > 0.05
