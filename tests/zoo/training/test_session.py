"""Training end to end, on small real networks and real image files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests_support import TINY, make_photos

import zoo.training.setup
from zoo import Metric, Plugins, Run, UsageError, ZooError, evaluate, predict, train
from zoo.catalogue import Catalogue
from zoo.errors import PluginWarning
from zoo.networks.building import build_network, read_state
from zoo.progress import Silent
from zoo.storage.files import read_json, write_json
from zoo.training.final_run import final_experiment
from zoo.training.setup import resolve

BASE = replace(TINY, epochs=2)


@pytest.fixture(scope="module")
def finished(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Run:
    out = tmp_path_factory.mktemp("runs") / "finished"
    return train(replace(BASE, data=str(two_splits), epochs=6, lr=0.02), out=out, plugins=plugins)


def fit(data: Path, out: Path, plugins: Plugins, **settings: Any) -> Run:
    return train(replace(BASE, data=str(data), **settings), out=out, plugins=plugins)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return read_state(run.path / "model.safetensors")


def test_a_run_learns_and_describes_itself(finished: Run) -> None:
    assert finished.status == "finished" and finished.record["schema"] == 1
    assert finished.metrics["accuracy"] >= 0.9  # blue against red
    assert finished.record["backbone"] == "timm/test_resnet" and finished.record["strategy"] == "partial:1"
    assert finished.record["reported_split"] == "val" and finished.record["chosen_on"] is None
    assert [line["epoch"] for line in finished.history] == [1, 2, 3, 4, 5, 6]
    assert all(line["schema"] == 1 for line in finished.history)
    roles = read_json(finished.path / "splits.json")["roles"]
    assert len(roles["fit"]) == 24 and all(name.startswith("train/") for name in roles["fit"])
    assert all(name.startswith("val/") for name in roles["reported"])
    assert finished.looks("val") == 1
    assert Run.open(finished.path).record == finished.record


def test_evaluating_a_run_gives_its_own_figures(finished: Run, plugins: Plugins) -> None:
    before = finished.predictions()
    evaluation = evaluate(finished, plugins=plugins)
    assert evaluation.metrics == pytest.approx(finished.metrics, abs=1e-5)
    assert evaluation.predictions.ids == before.ids
    assert np.abs(evaluation.predictions.logits - before.logits).max() < 1e-4
    assert finished.looks("val") == 2


def test_predicting_files_agrees_with_the_stored_predictions(finished: Run, two_splits: Path, plugins: Plugins) -> None:
    table = finished.predictions()
    paths = [two_splits / name for name in table.ids]
    found, bad = predict(finished, paths, top=2, plugins=plugins)
    assert bad == []
    assert [one.top[0][0] for one in found] == [table.classes[i] for i in table.predicted]
    assert np.allclose([one.top[0][1] for one in found], table.probabilities.max(1), atol=1e-5)
    assert all(sum(share for _, share in one.top) == pytest.approx(1) for one in found)


def test_the_same_seed_gives_the_same_weights(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    runs = [fit(two_splits, tmp_path / name, plugins, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    first, second, other = (weights(run) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert runs[0].record["weights_sha256"] == runs[1].record["weights_sha256"]


def test_frozen_tensors_keep_their_bits(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    start = fit(two_splits, tmp_path / "start", plugins, strategy="scratch")
    file = str(start.path / "model.safetensors")
    before = weights(start)
    after = weights(fit(two_splits, tmp_path / "linear", plugins, strategy="linear", weights=file, lr=0.1))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("fc.")}


def test_phases_follow_each_other(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, strategy="linear,epochs=1+full,epochs=2", epochs=None)
    assert [line["phase"] for line in run.history] == ["linear", "full", "full"]
    first, second = run.record["phases"]
    assert first["trainable_parameters"] < second["trainable_parameters"] == run.record["parameters"]


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cosine", "optimizer": "sgd", "clip": 0.0},
        {"schedule": "step", "augment": "trivial", "class_balance": "loss"},
        {"schedule": "constant", "augment": "rand", "class_balance": "sample", "warmup": 0.0},
        {"norm": "recalibrate", "augment": "rotate", "drop_path": 0.1, "backbone": "timm/test_efficientnet"},
        {"norm": "frozen", "augment": "none", "dropout": 0.3, "label_smoothing": 0.0},
        {"precision": "bf16", "augment": "flip"},
        {"batch_size": 23},  # 24 images: a last batch of one
    ],
)
def test_every_setting_runs(settings: dict[str, Any], two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, **settings)
    assert run.status == "finished"
    assert all(np.isfinite(line["train_loss"]) for line in run.history)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    eager, compiled = (fit(two_splits, tmp_path / str(flag), plugins, compile=flag) for flag in (False, True))
    assert [line["train_loss"] for line in compiled.history] == pytest.approx(
        [line["train_loss"] for line in eager.history], rel=1e-3
    )


@pytest.mark.parametrize("settings", [{"keep": "best"}, {"early_stopping": 1}, {"schedule": "plateau:3"}])
def test_with_two_splits_choices_are_made_on_a_part_of_train(
    settings: dict[str, Any], two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, **settings)
    roles = read_json(run.path / "splits.json")["roles"]
    assert run.record["chosen_on"] == "carved from train"
    assert all(name.startswith("train/") for name in roles["choose"]) and not set(roles["fit"]) & set(roles["choose"])
    assert "choice_loss" in run.history[0]
    assert run.record["schedule"]["follows_validation"] is ("schedule" in settings)
    if "schedule" in settings:
        with pytest.raises(UsageError, match="lowered its rate by the validation loss"):
            final_experiment(run)


def test_with_three_splits_val_chooses_and_test_is_left_alone(
    three_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    run = fit(three_splits, tmp_path / "run", plugins, keep="best", epochs=3)
    assert run.record["chosen_on"] == "val" and run.looks("test") == 0
    roles = read_json(run.path / "splits.json")["roles"]
    assert len(roles["fit"]) == 24 and all(name.startswith("train/") for name in roles["fit"])
    assert len(roles["choose"]) == 8 and all(name.startswith("val/") for name in roles["choose"])
    assert not (run.path / "predictions-test.safetensors").exists()
    best = min(run.history, key=lambda line: line["choice_loss"])
    assert run.metrics["loss"] == pytest.approx(best["choice_loss"], abs=1e-4)
    evaluate(run, split="test", plugins=plugins)
    assert run.looks("test") == 1 and len(run.predictions("test")) == 10


def test_early_stopping_ends_a_phase(three_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    # a rate so high that the choice loss cannot fall for long
    run = fit(three_splits, tmp_path / "run", plugins, early_stopping=1, epochs=30, lr=0.5, schedule="constant")
    losses = [line["choice_loss"] for line in run.history]
    assert len(losses) < 30 and losses[-1] >= min(losses[:-1])
    assert run.metrics["loss"] == pytest.approx(min(losses), abs=1e-4)


def test_an_existing_folder_is_never_lost(finished: Run, two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="exists") as error:
        fit(two_splits, finished.path, plugins)
    assert error.value.exit_code == 2 and Run.open(finished.path).status == "finished"
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a run"):
        train(replace(BASE, data=str(two_splits)), out=tmp_path, force=True, plugins=plugins)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_force_replaces_a_run_only_once_the_new_one_can_start(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, epochs=1)
    with pytest.raises(ZooError):
        train(replace(BASE, data=str(tmp_path / "nothing")), out=run.path, force=True, plugins=plugins)
    assert Run.open(run.path).status == "finished"
    again = train(replace(BASE, data=str(two_splits), epochs=1, seed=9), out=run.path, force=True, plugins=plugins)
    assert again.experiment.seed == 9


def test_force_replaces_the_run_s_own_files_only(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, epochs=1)
    (run.path / "notes.txt").write_text("mine")
    shutil.copytree(two_splits, run.path / "photos")
    (run.path / "model.onnx").write_bytes(b"of the former run")
    # the weights to go on from lie in the run that is replaced, and so do the photographs
    experiment = replace(BASE, data=str(run.path / "photos"), weights=str(run.path / "model.safetensors"), epochs=1)
    again = train(experiment, out=run.path, force=True, plugins=plugins)
    assert again.status == "finished" and again.record["weights"]["sha256"] == run.record["weights_sha256"]
    assert (run.path / "notes.txt").read_text() == "mine" and len(list((run.path / "photos").rglob("*.jpg"))) == 36
    assert not (run.path / "model.onnx").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": {}},
        {"experiment": {**BASE.to_json(), "data": "x", "color": 1}},
        {"preprocess": {}},
        {"phases": []},
        {"classes": []},
        {"schema": "x"},
    ],
)
def test_a_damaged_record_is_named(finished: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    write_json(tmp_path / "run.json", {**finished.record, **change})
    with pytest.raises(ZooError, match=r"run\.json` is damaged") as error:
        Run.open(tmp_path)
    assert error.value.exit_code == 1 and error.value.hint is not None


def test_another_split_seed_does_not_replace_the_run_s_predictions(tmp_path: Path, plugins: Plugins) -> None:
    data = make_photos(tmp_path / "data", {"": 20})
    run = fit(data, tmp_path / "run", plugins, epochs=1, split_seed=3)
    before = run.predictions().ids
    assert evaluate(run, plugins=plugins).predictions.ids == before
    other = evaluate(run, split_seed=4, plugins=plugins)
    assert other.predictions.ids != before and other.fitted and other.to_json()["fitted_on"] == other.fitted
    assert run.predictions().ids == before


def test_a_run_finds_its_photographs_from_anywhere(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(two_splits, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    run = fit(Path("photos"), tmp_path / "run", plugins, epochs=1)
    monkeypatch.chdir(two_splits)
    assert len(evaluate(run, plugins=plugins).predictions) == 12
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(ZooError, match="which cannot be opened") as error:
        evaluate(run, plugins=plugins)
    assert error.value.hint is not None and "--data" in error.value.hint
    assert len(evaluate(run, data=str(tmp_path / "moved"), plugins=plugins).predictions) == 12


def test_a_failing_metric_does_not_end_a_run(two_splits: Path, tmp_path: Path) -> None:
    plugins = Plugins()
    good = plugins.metrics.entries
    bad = [
        replace(good[0], provider="acme", value=Metric(name=name, summary="x", compute=compute))
        for name, compute in (("raises", lambda table: 1 / 0), ("nan", lambda table: float("nan")))
    ]
    plugins.__dict__["metrics"] = Catalogue("metric", "metrics", [*good, *bad])
    with pytest.warns(PluginWarning, match="failed"):
        run = fit(two_splits, tmp_path / "run", plugins, epochs=1)
    assert run.metrics["raises"] is None and run.metrics["nan"] is None and run.metrics["accuracy"] is not None
    assert "NaN" not in (run.path / "run.json").read_text()


def test_a_last_step_that_diverges_says_so(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ZooError, match="training diverged"):
        fit(
            two_splits,
            tmp_path / "run",
            plugins,
            weight_decay=1e3,
            lr=1e3,
            epochs=1,
            clip=0.0,
            batch_size=24,
            strategy="full",
        )


def test_settings_reach_the_network_and_the_phases(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    build, compile_ = build_network, torch.compile

    def spy(backbone: Any, **settings: Any) -> Any:
        asked.update(settings)
        return build(backbone, **settings)

    monkeypatch.setattr(zoo.training.setup, "build_network", spy)
    monkeypatch.setattr(torch, "compile", lambda model: asked.update(compiled=True) or model)
    run = fit(two_splits, tmp_path / "run", plugins, norm="recalibrate", dropout=0.3, drop_path=0.1, compile=True,
              backbone="timm/test_efficientnet", epochs=1, schedule="constant", warmup=0.0)  # fmt: skip
    assert compile_ is not torch.compile and asked["compiled"]
    assert (asked["dropout"], asked["drop_path"], asked["image_size"]) == (0.3, 0.1, 32)
    assert {phase["norm"] for phase in run.record["phases"]} == {"recalibrate"}
    assert run.history[0]["lr"] == pytest.approx(run.experiment.lr)


def test_held_out_images_depend_on_the_split_seed(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    runs = [fit(two_splits, tmp_path / str(seed), plugins, keep="best", split_seed=seed, epochs=1) for seed in (0, 1)]
    first, second = (read_json(run.path / "splits.json")["roles"]["choose"] for run in runs)
    assert first != second


def test_scratch_leaves_published_weights_alone(plugins: Plugins) -> None:
    experiment = replace(BASE, data="x", strategy="scratch", weights="default", backbone="resnet18", image_size=None)
    setup = resolve(experiment, plugins)
    assert setup.weights is None and setup.preprocess.crop == 224
    pretrained = resolve(replace(experiment, strategy="full"), plugins)
    assert pretrained.weights is not None


def test_the_head_starts_near_zero(plugins: Plugins) -> None:
    network = build_network(plugins.backbones.find("timm/test_resnet").value, classes=2)
    head = dict(network.model.named_parameters())
    assert 0 < head["fc.weight"].std() < 0.02 and not head["fc.bias"].any()


class Interrupting(Silent):
    def epoch(self, record: dict[str, Any]) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_stays_readable(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(replace(BASE, data=str(two_splits)), out=tmp_path / "run", plugins=plugins, progress=Interrupting())
    run = Run.open(tmp_path / "run")
    assert run.status == "interrupted" and run.metrics == {}
    with pytest.raises(ZooError, match="has no weights") as error:
        evaluate(run, plugins=plugins)
    assert "--resume" in str(error.value.hint)


def test_a_diverging_run_says_so(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ZooError, match="training diverged"):
        fit(two_splits, tmp_path / "run", plugins, strategy="scratch", lr=1e3, optimizer="sgd", clip=0.0, warmup=0.0,
            schedule="constant", epochs=10)  # fmt: skip
    run = Run.open(tmp_path / "run")
    assert run.status == "failed" and "diverged" in run.record["failure"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet18x"}, "unknown backbone"),
        ({"strategy": "partial:99"}, "asks for 99 stages"),
        ({"weights": "imagenet"}, "weights"),
        ({"weights": "./nowhere.safetensors"}, "no file of weights"),
        ({"device": "gpu"}, "unknown device"),
        ({"strategy": "scratch", "weights": "./x.pth"}, "no file of weights"),
    ],
)
def test_wrong_names_are_usage_errors(
    settings: dict[str, Any], message: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(two_splits, tmp_path / "run", plugins, **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_missing_cuda_is_an_error(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ZooError, match="no CUDA device"):
        fit(two_splits, tmp_path / "run", plugins, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_cuda(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = fit(two_splits, tmp_path / "run", plugins, device="cuda", epochs=6, lr=0.02)
    assert run.record["device"]["name"].startswith("cuda") and run.metrics["accuracy"] >= 0.9


def test_a_last_batch_of_one_trains_every_image(tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "data", {"train": 9, "val": 2})
    (root / "train/red/008.jpg").unlink()  # 17 images, batches of 8
    run = fit(root, tmp_path / "run", plugins, strategy="full", epochs=1)
    assert run.status == "finished"


def test_a_task_ends_where_scanning_fails(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    """A bar that was not stopped would go on telling how long the scan takes, in whatever its program does next."""

    class Told(Silent):
        task = ""

        def start(self, task: str, total: int, unit: str = "images", later: int = 0) -> None:
            self.task = task

        def stop(self) -> None:
            self.task = ""

    data = Path(shutil.copytree(two_splits, tmp_path / "data"))
    (data / "train/blue/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    told = Told()
    with pytest.raises(ZooError, match=r"broken\.jpg"):
        train(replace(BASE, data=str(data), on_bad_image="fail"), out=tmp_path / "run", plugins=plugins, progress=told)
    assert told.task == ""
