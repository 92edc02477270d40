"""Soups and ensembles: runs made of other runs, used like any other; and files with test-time augmentation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import refused, unsaid
from safetensors.torch import load_file, save_file
from shared import digest, made_once
from tests_support import TINY, Killed, make_photos

from zoo import (
    Plugins,
    Run,
    UsageError,
    ZooError,
    compare,
    ensemble,
    evaluate,
    export,
    inspect,
    rerun,
    soup,
    train,
    verify,
)
from zoo.combining.parts import crops, find_held_out, open_parts
from zoo.combining.soup import _without_temperature
from zoo.networks.mean_network import FlippedViews, log_mean
from zoo.networks.predictor import TorchPredictor
from zoo.predictions import softmax
from zoo.progress import Silent
from zoo.runs.source_run import SourceRun
from zoo.storage.files import read_json, write_bytes, write_json
from zoo.training.entry import resume, train_final
from zoo_cli.main import run as zoo

SEEDS = ("r0", "r1", "r2")


@pytest.fixture(scope="session")
def trained(three_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Path]:
    """A folder with three runs that differ by their seed, a `knn` run, and a `linear` one of another normalisation."""

    def make(folder: Path) -> None:
        full = replace(TINY, data=str(three_splits), strategy="full", epochs=2, norm="train")
        for number, name in enumerate(SEEDS):
            train(replace(full, seed=number), out=folder / name, plugins=plugins)
        train(replace(TINY, data=str(three_splits), strategy="knn:3"), out=folder / "knn", plugins=plugins)

    yield from made_once(tmp_path_factory.getbasetemp(), "combining-trained", make)


def runs(trained: Path, *names: str) -> list[Path]:
    return [trained / name for name in names]


def test_a_soup_is_the_mean_of_the_runs_that_are_taken(
    trained: Path, tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zoo(["soup", *map(str, runs(trained, *SEEDS)), "--out", str(tmp_path / "soup"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    made = Run.open(tmp_path / "soup")
    told = made.record["soup"]
    taken = [one for one in told["ingredients"] if one["taken"]]
    assert made.combined == f"soup of {len(taken)}" and made.status == "finished"
    assert [one["run"] for one in told["ingredients"]] == [str(path.resolve()) for path in runs(trained, *SEEDS)]
    assert [one["weights_sha256"] for one in told["ingredients"]] == [
        Run.open(path).record["weights_sha256"] for path in runs(trained, *SEEDS)
    ]
    best = min(told["ingredients"], key=lambda one: float(one["loss"]))
    assert best["taken"] and told["loss"] <= best["loss"]  # no run is taken that makes it worse
    states = [load_file(Path(one["run"]) / "model.safetensors") for one in taken]
    found = load_file(tmp_path / "soup" / "model.safetensors")
    below = next(name for name in found if name.endswith("conv1.weight"))  # the head is divided by a temperature
    assert torch.allclose(found[below], torch.stack([state[below] for state in states]).mean(0), atol=1e-7)
    assert said["against"]["difference"] == pytest.approx(
        said["against"]["accuracy"][1] - said["against"]["accuracy"][0]
    )
    low, high = said["against"]["difference_interval_95"]
    assert low <= said["against"]["difference"] <= high
    again = evaluate(made, plugins=plugins)  # as any run
    assert np.array_equal(again.predictions.logits, made.predictions().logits)
    assert export(made, plugins=plugins).parity.agreeing == len(made.predictions())
    assert made.fitted() == Run.open(trained / "r0").fitted()


def test_norms_of_a_soup_are_those_of_its_own_activations(
    trained: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics that were trained differ by run, and their mean is not the mean network's."""
    monkeypatch.setattr("zoo.combining.soup._rank", lambda figures, by: (0.0, 0.0))  # each run is as good as another
    made = soup(runs(trained, "r0", "r1"), out=tmp_path / "soup", plugins=plugins).run
    assert made.combined == "soup of 2"
    assert made.record["soup"]["norms"] == "estimated again on 24 training images"
    parts = open_parts(runs(trained, "r0", "r1"), "soup")
    pixels = crops(find_held_out(parts, None, plugins, Silent()).fit, made.preprocess)
    network = made.load_network(plugins).model
    seen: list[torch.Tensor] = []
    layer = next(one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d))
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    TorchPredictor(network, (), made.preprocess, torch.device("cpu")).logits_of_pixels(pixels)
    assert layer.running_mean is not None
    assert torch.allclose(layer.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)


def test_an_ensemble_gives_the_mean_of_probabilities_and_one_file(
    trained: Path, tmp_path: Path, plugins: Plugins
) -> None:
    made = ensemble(runs(trained, "r0", "knn", "r2"), out=tmp_path / "both", plugins=plugins).run  # any kind of head
    tables = [Run.open(path).predictions().probabilities for path in runs(trained, "r0", "knn", "r2")]
    assert np.allclose(made.predictions().probabilities, np.mean(tables, axis=0), atol=1e-5)
    file = export(made, plugins=plugins)
    assert file.parity.agreeing == file.parity.images and file.parity.largest_difference < 1e-3
    assert all(check.passed for check in verify(file.path, data=made.experiment.data, plugins=plugins))
    verdict = compare([trained / "r0", trained / "r1", made])
    assert verdict is not None and any("ensemble of 3" in name for name in verdict.accuracies)  # no further seed


def test_members_may_have_other_colours_and_orders_of_classes(trained: Path, tmp_path: Path, plugins: Plugins) -> None:
    """The same network, told that its classes and its normalisation are others, with weights that make up for it."""
    other = tmp_path / "turned"
    shutil.copytree(trained / "r1", other)
    state = load_file(other / "model.safetensors")
    for name in [name for name in state if name.startswith("fc.")]:
        state[name] = state[name].flip(0).contiguous()
    save_file(state, other / "model.safetensors")
    record = read_json(other / "run.json")
    record["classes"] = record["classes"][::-1]
    record["weights_sha256"] = None
    write_json(other / "run.json", record)
    table = ensemble([trained / "r0", other], out=tmp_path / "e", plugins=plugins).run.predictions()
    straight = ensemble(runs(trained, "r0", "r1"), out=tmp_path / "f", plugins=plugins).run.predictions()
    assert table.classes == straight.classes and np.array_equal(table.logits, straight.logits)
    record["preprocess"]["mean"] = [0.1, 0.2, 0.3]
    write_json(other / "run.json", record)
    own = evaluate(other, plugins=plugins).predictions  # with its own colours
    made = ensemble([trained / "r0", other], out=tmp_path / "g", plugins=plugins).run.predictions()
    shares = [Run.open(trained / "r0").predictions().probabilities, own.probabilities[:, ::-1]]
    assert np.allclose(made.probabilities, np.mean(shares, axis=0), atol=1e-5)


def test_temperature_is_fitted_again_where_runs_fit_one(tmp_path: Path, plugins: Plugins) -> None:
    data = make_photos(tmp_path / "data", {"train": 8, "val": 12, "test": 2})
    for seed in (0, 1):
        train(
            replace(TINY, data=str(data), strategy="full", epochs=2, seed=seed),
            out=tmp_path / f"t{seed}",
            plugins=plugins,
        )
    parts = [Run.open(tmp_path / f"t{seed}") for seed in (0, 1)]
    for make in (soup, ensemble):
        made = make(parts, out=tmp_path / make.__name__, plugins=plugins).run
        said = made.record["temperature"]
        assert said["fitted_on"] == "choose"
        if make is ensemble:
            mean = np.log(np.mean([one.predictions().probabilities for one in parts], axis=0))
            expected = softmax(mean / said["value"])
            assert np.allclose(made.predictions().probabilities, expected, atol=1e-5)


def test_what_cannot_be_combined_is_refused(trained: Path, tmp_path: Path, plugins: Plugins) -> None:
    first = trained / "r0"
    out = tmp_path / "out"
    for make in (soup, ensemble):
        with refused(UsageError, "1 run", "two"):
            make([first], out=out, plugins=plugins)
        with refused(UsageError, "r0", "twice"):
            make([first, trained / "r1", first], out=out, plugins=plugins)
        with refused(UsageError, "r0", "--out"):
            make(runs(trained, "r0", "r1"), out=trained, plugins=plugins)
    shutil.copytree(first, tmp_path / "copy")
    with refused(UsageError, "copy", "same weights"):
        soup([first, tmp_path / "copy"], out=out, plugins=plugins)
    with refused(UsageError, "knn:3", "linear layer", "zoo ensemble"):
        soup(runs(trained, "r0", "knn"), out=out, plugins=plugins)
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with refused(ZooError, "model.safetensors", "damaged"):
        ensemble([first, tmp_path / "copy"], out=out, plugins=plugins)
    record = read_json(tmp_path / "copy" / "run.json")
    for changes, words in (
        ({"status": "interrupted"}, ("interrupted", "--resume")),
        ({"backbone": "timm/test_vit"}, ("backbones", "timm/test_vit")),
        ({"classes": ["blue", "green"]}, ("classes", "r0")),
        ({"preprocess": {**record["preprocess"], "crop": 40}}, ("preprocessing", "r0")),
        ({"weights_sha256": None, "reported_split": "test"}, ("other images", "--split-seed")),
    ):
        shutil.copy(trained / "r1" / "model.safetensors", weights)
        write_json(tmp_path / "copy" / "run.json", {**record, "weights_sha256": None, **changes})
        with refused(ZooError, "copy", *words):
            soup([first, tmp_path / "copy"], out=out, plugins=plugins)
        if "backbone" not in changes:
            with pytest.raises(ZooError):
                ensemble([first, tmp_path / "copy"], out=out, plugins=plugins)
    splits = read_json(first / "splits.json")
    for key in ("roles", "sha256"):
        splits[key]["fit"] = [*splits[key]["fit"], splits[key]["choose"][0]]
    write_json(tmp_path / "copy" / "splits.json", splits)
    write_json(tmp_path / "copy" / "run.json", {**record, "weights_sha256": None})
    with refused(UsageError, "copy", "holds out"):
        soup([first, tmp_path / "copy"], out=out, plugins=plugins)
    (tmp_path / "copy" / "splits.json").unlink()
    with refused(ZooError, "copy", "splits.json"):
        ensemble([first, tmp_path / "copy"], out=out, plugins=plugins)
    assert not out.exists()  # nothing is left of what was refused


def test_a_combined_run_is_not_trained(
    trained: Path, tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ensemble(runs(trained, "r0", "r1"), out=tmp_path / "e", plugins=plugins).run
    with refused(UsageError, "ensemble of 2", "zoo ensemble"):
        rerun(made, out=tmp_path / "again", plugins=plugins)
    with refused(UsageError, "ensemble of 2", "zoo ensemble"):
        train_final(made, out=tmp_path / "final", plugins=plugins)
    assert zoo(["embed", made.experiment.data, "--run", str(made.path), "--out", str(tmp_path / "f.npz")]) == 2
    assert not unsaid(capsys.readouterr().err, "ensemble of 2", "members")
    with refused(UsageError, "ensemble", "members"):
        ensemble([made, trained / "r2"], out=tmp_path / "nested", plugins=plugins)
    with refused(UsageError, "e", "--force"):
        ensemble(runs(trained, "r0", "r2"), out=tmp_path / "e", plugins=plugins)
    with refused(UsageError, "resumed", "zoo ensemble"):
        resume(made.update(status="interrupted"), plugins=plugins)
    again = ensemble(runs(trained, "r0", "r2"), out=tmp_path / "e", force=True, plugins=plugins).run
    assert again.status == "finished" and again.record["id"] != made.record["id"]


def test_commands_say_what_was_made(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo(["ensemble", str(trained / "r0"), str(trained / "r1"), "--out", str(tmp_path / "e")]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "e")
    assert not unsaid(captured.err, "against the best of them", "95 % interval")
    assert zoo(["report", str(tmp_path / "e"), "--out", str(tmp_path / "e.html")]) == 0
    assert zoo(["card", str(tmp_path / "e")]) == 0
    capsys.readouterr()
    assert zoo(["compare", str(trained / "r0"), str(tmp_path / "e"), "--json"]) == 0
    assert [row["made"] for row in json.loads(capsys.readouterr().out)["runs"]] == [None, "ensemble of 2"]


def test_a_file_over_views_gives_the_mean_of_both(trained: Path, tmp_path: Path, plugins: Plugins) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained / "r0", folder)
    run = Run.open(folder)
    file = export(run, tta="flip", plugins=plugins)
    assert file.path == folder / "model.flip.onnx" and file.parity.agreeing == file.parity.images
    both = evaluate(file.path, data=run.experiment.data, plugins=plugins)
    parts = open_parts([run, trained / "r1"], "soup")
    pixels = crops(find_held_out(parts, None, plugins, Silent()).reported, run.preprocess)
    model = run.predictor("cpu", plugins)
    single = [softmax(model.logits_of_pixels(one)) for one in (pixels, pixels[:, :, ::-1].copy())]  # type: ignore[attr-defined]
    order = {name: row for row, name in enumerate(both.predictions.ids)}
    rows = [order[name] for name in run.predictions().ids]
    assert np.allclose(both.predictions.probabilities[rows], np.mean(single, axis=0), atol=1e-3)
    told = inspect(file.path)["metadata"]
    figures = told["zoo.metrics"] if isinstance(told["zoo.metrics"], dict) else json.loads(told["zoo.metrics"])
    assert figures["loss"] != pytest.approx(run.metrics["loss"], abs=1e-4)
    assert f"| Log-loss (nats) | {figures['loss']:.4f} |" in told["zoo.card"]
    assert "The figures above are those of all of them together." in told["zoo.card"]
    assert all(check.passed for check in verify(file.path, data=run.experiment.data, plugins=plugins))
    with refused(UsageError, "rotate", "flip"):
        export(run, tta="rotate", out=tmp_path / "a.onnx", plugins=plugins)
    run.update(unknown={"rate": 0.05})
    with refused(UsageError, "--tta", "--unknown-rate"):
        export(folder, tta="flip", out=tmp_path / "a.onnx", plugins=plugins)


@pytest.mark.parametrize(("views", "count"), [("five-crop", 5), ("ten-crop", 10)])
def test_a_file_over_crops_gives_their_mean(
    views: str, count: int, trained: Path, tmp_path: Path, plugins: Plugins
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained / "r0", folder)
    run = Run.open(folder)
    (resized, _), (size, _) = run.preprocess.resize_size, run.preprocess.input_size
    assert resized > size
    file = export(run, tta=views, plugins=plugins)
    assert file.path == folder / f"model.{views}.onnx" and file.parity.agreeing == file.parity.images
    whole = evaluate(file.path, data=run.experiment.data, plugins=plugins)
    parts = open_parts([run, trained / "r1"], "soup")
    pixels = crops(find_held_out(parts, None, plugins, Silent()).reported, replace(run.preprocess, crop=resized))
    model = run.predictor("cpu", plugins)
    last, middle = resized - size, (resized - size) // 2
    single = []
    for top, left in ((0, 0), (0, last), (last, 0), (last, last), (middle, middle)):
        crop = pixels[:, top : top + size, left : left + size].copy()
        single += [softmax(model.logits_of_pixels(one)) for one in (crop, crop[:, :, ::-1].copy())]  # type: ignore[attr-defined]
    order = {name: row for row, name in enumerate(whole.predictions.ids)}
    rows = [order[name] for name in run.predictions().ids]
    expected = np.mean(single if count == 10 else single[::2], axis=0)
    assert np.allclose(whole.predictions.probabilities[rows], expected, atol=1e-3)
    assert all(check.passed for check in verify(file.path, data=run.experiment.data, plugins=plugins))
    run.update(preprocess={**run.record["preprocess"], "resize": size})
    with refused(UsageError, f"`--tta {views}`", f"{size}"):
        export(folder, tta=views, out=tmp_path / "a.onnx", plugins=plugins)


def test_log_mean_is_that_of_probabilities_however_large_the_logits() -> None:
    logits = [torch.tensor([[300.0, 0.0, -50.0]]), torch.tensor([[0.0, 80.0, 1.0]])]
    expected = torch.stack([torch.softmax(one.double(), 1) for one in logits]).mean(0)
    assert torch.allclose(torch.softmax(log_mean(logits), 1).double(), expected, atol=1e-6)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 2 * 4, 2))
    images = torch.randn(3, 3, 2, 4)
    assert torch.equal(FlippedViews(model)(images), FlippedViews(model)(images.flip(3)))  # a mirror image is no other


def test_the_temperature_of_a_run_is_taken_out_of_its_head(
    exported_run: Path, tmp_path: Path, plugins: Plugins
) -> None:
    copy = shutil.copytree(exported_run, tmp_path / "copy")
    write_json(copy / "run.json", {**Run.open(copy).record, "temperature": {"value": 2.0, "fitted_on": "choose"}})
    run = Run.open(copy)
    before = {name: value.clone() for name, value in run.load_network(plugins).model.state_dict().items()}
    found = _without_temperature(run.load_network(plugins), SourceRun(run=run, sha256=""))
    changed = [name for name, value in found.items() if not torch.equal(value, before[name])]
    assert len(changed) == 2 and all(torch.allclose(found[name], before[name] * 2) for name in changed)


@pytest.mark.parametrize("how", ["from", "teachers"])
def test_what_a_run_before_the_parts_was_trained_on_is_not_held_out(
    how: str, trained: Path, tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    before, part = tmp_path / "before", tmp_path / "part"
    shutil.copytree(trained / "r2", before)
    shutil.copytree(trained / "r1", part)
    splits = read_json(before / "splits.json")
    for key in ("roles", "sha256"):
        splits[key]["fit"] = splits[key]["choose"][:3]
    write_json(before / "splits.json", splits)
    told = {"run": str(before), **{name: Run.open(before).record[name] for name in ("id", "weights_sha256")}}
    record = read_json(part / "run.json")
    write_json(part / "run.json", {**record, how: told if how == "from" else {str(before): told}})
    for make in (soup, ensemble):
        with refused(UsageError, f"run `{before}`, which `{part}`", "3 images", "--on-leak drop"):
            make([trained / "r0", part], out=tmp_path / "whole", plugins=plugins)
    assert not (tmp_path / "whole").exists()
    shutil.rmtree(before)
    capsys.readouterr()
    assert zoo(["soup", str(trained / "r0"), str(part), "--out", str(tmp_path / "whole")]) == 0
    assert f"which images run `{before}`" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt(), Killed()])
def test_a_soup_that_cannot_be_written_changes_nothing(
    stop: BaseException, trained: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a half-made folder is left, nor is the run that it was to replace gone."""

    def stopping(file: Path, data: bytes) -> None:
        if file.name == "model.safetensors":
            raise stop
        write_bytes(file, data)

    old = tmp_path / "old"
    shutil.copytree(trained / "r2", old)
    (old / ".lock").unlink()
    before = digest(old)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.combining.making.write_bytes", stopping)
        for out, force in ((tmp_path / "new", False), (old, True)):
            with pytest.raises((ZooError, KeyboardInterrupt, Killed)):
                soup(runs(trained, "r0", "r1"), out=out, force=force, plugins=plugins)
    assert not (tmp_path / "new").exists()
    (old / ".lock").unlink(missing_ok=True)
    assert digest(old) == before
    (tmp_path / "new" / ".making-left").mkdir(parents=True)  # of a process that was killed by the system
    made = soup(runs(trained, "r0", "r1"), out=tmp_path / "new", plugins=plugins).run
    assert Run.open(made.path).record == made.record and made.looks("val") == 1
    again = soup(runs(trained, "r0", "r1"), out=old, force=True, plugins=plugins).run
    assert again.combined is not None and not (old / "history.jsonl").exists()
    assert {file.name for file in old.iterdir()} == {file.name for file in made.path.iterdir()} - {".making-left"}


def test_runs_that_are_made_of_others_do_not_count_as_equally_set(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plugins: Plugins
) -> None:
    ensemble(runs(trained, "r0", "r1"), out=tmp_path / "both", plugins=plugins)
    capsys.readouterr()
    assert zoo(["diff", str(trained / "r0"), str(tmp_path / "both")]) == 0
    said = capsys.readouterr().err
    assert f"`{tmp_path / 'both'}` is an ensemble of 2 runs" in said and "no setting differs" not in said
