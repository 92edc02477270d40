"""Distillation: the loss against its definition, what a teacher sees, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from messages import refused
from shared import made_once
from tests_support import TINY, Killed, make_photos
from torch import nn

from zoo import Experiment, Plugins, Run, Study, UsageError, ZooError, card, plan, resume, train
from zoo.config.choice import choose
from zoo.config.context import Context
from zoo.exporting.metadata import file_metadata
from zoo.networks.predictor import TorchPredictor
from zoo.progress import Silent
from zoo.storage.files import json_text, read_json, write_json
from zoo.strategy import Group, Phase
from zoo.system.device import choose_device
from zoo.training.checkpoint import Checkpoints
from zoo.training.distillation import TaughtViews, open_teachers
from zoo.training.preparation import prepare
from zoo.training.setup import resolve
from zoo.training.start import start_of
from zoo.training.step import Stepper
from zoo.training.workspace import Workspace
from zoo_cli.train import train as train_command

PLUGINS = Plugins()


@pytest.fixture(scope="session")
def teacher(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Path]:
    """The folder of a finished run of another backbone and another size of images."""

    def make(folder: Path) -> None:
        experiment = replace(
            TINY, data=str(two_splits), backbone="timm/test_efficientnet", strategy="full", epochs=2, image_size=40
        )
        train(experiment, out=folder / "big", plugins=plugins)

    for folder in made_once(tmp_path_factory.getbasetemp(), "distillation-teacher", make):
        yield folder / "big"


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_takes_the_gradient_of_labels_and_teacher(parts: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, labels, taught = torch.randn(7, 3, 2, 2), torch.arange(7) % 3, torch.randn(7, 3)
    loss = nn.functional.cross_entropy(model(images), labels)
    theirs, ours = (taught / 2).softmax(1), (model(images) / 2).softmax(1)
    apart = (theirs * (theirs / ours).log()).sum(1).mean() * 4  # the square of the temperature
    (0.3 * loss + 0.7 * apart).backward()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    wanted = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    stepper = Stepper(
        model,
        experiment=Experiment(
            data="x", backbone="y", strategy="z", accumulate=parts, batch_size=7, clip=0.0, label_smoothing=0.0
        ),
        device=choose_device("cpu", "fp32"),
        classes=3,
        loss=choose("cross-entropy", PLUGINS.losses, PLUGINS),
        class_weights=None,
        progress=Silent(),
    )
    phase = Phase(
        name="full", groups=(Group(stages=("head",)),), norm="frozen", distill="x", distill_temperature=2.0,
        distill_weight=0.7,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    told, _ = stepper.step(model, (images,), labels, optimizer, phase, epoch=0, batch=0, start={}, taught=taught)
    assert told == pytest.approx(float(loss.detach()), rel=1e-5)  # what is shown is the loss of the labels
    for name, value in model.named_parameters():
        assert torch.allclose(value, before[name] - 0.5 * wanted[name], atol=1e-5), name


def test_a_teacher_sees_the_views_of_the_student(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Normalised and resized as its own images are, whatever else is in the batch; classes as the data have them."""
    experiment = replace(TINY, data=str(two_splits), strategy=f"full,distill={teacher}", epochs=2)
    workspace = Workspace(prepare(experiment, resolve(experiment, plugins), Context.of(plugins, Silent())))
    (found,) = workspace.job.teachers.values()
    turned = replace(found, rows=(1, 0))
    taught, other = (TaughtViews(one, workspace.views, plugins, Silent()) for one in (found, turned))
    indices, views = np.array([5, 0, 17]), [1, 3, 1]
    logits = taught.rows(indices, views)
    assert torch.equal(logits, torch.cat([taught.rows(indices[[row]], [views[row]]) for row in range(3)]))
    assert torch.equal(other.rows(indices, views), logits.flip(1))
    run = found.run
    ours, theirs = workspace.views.preprocess, run.preprocess
    assert ours.mean != theirs.mean
    spread, mean = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (ours.std, ours.mean))
    seen = workspace.views.inputs(indices, views) * spread + mean  # from 0 to 1
    assert seen.min() + 1e-5 >= 0 and seen.max() <= 1 + 1e-5
    spread, mean = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (theirs.std, theirs.mean))
    seen = (seen - mean) / spread
    shown = nn.functional.interpolate(seen, (40, 40), mode="bilinear", antialias=True)
    model = run.load_network(plugins).model
    with torch.inference_mode():
        assert torch.allclose(logits, model(shown), atol=1e-4)
    assert not torch.allclose(logits, taught.rows(indices, [0, 0, 0]), atol=1e-4)
    assert isinstance(run.predictor("cpu", plugins), TorchPredictor)


@pytest.mark.parametrize("strategy", ["full", "partial:1"], ids=["whole", "frozen prefix"])
def test_a_student_is_recorded_taught_and_resumed(
    strategy: str, teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{strategy},distill={teacher},distill_temperature=2.0"
    experiment = replace(TINY, data=str(two_splits), strategy=text, epochs=3, save_every=0.0)
    whole = train(experiment, out=tmp_path / "whole", plugins=plugins)
    alone = train(replace(experiment, strategy=strategy), out=tmp_path / "alone", plugins=plugins)
    assert whole.record["weights_sha256"] != alone.record["weights_sha256"]
    told = whole.record["teachers"][str(teacher)]
    assert told["weights_sha256"] == Run.open(teacher).record["weights_sha256"]
    assert [one["distill_temperature"] for one in whole.record["phases"]] == [2.0]
    write, left = Checkpoints.write, [5]

    def dying(self: Checkpoints, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "write", dying)
    with pytest.raises(Killed):
        train(experiment, out=tmp_path / "killed", plugins=plugins)
    again = resume(tmp_path / "killed", plugins=plugins)
    assert again.record["weights_sha256"] == whole.record["weights_sha256"]
    assert Run.open(tmp_path / "whole").predictor("cpu", plugins).classes == whole.classes  # needs no teacher


def test_a_teacher_that_is_gone_or_changed_is_told(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "big"
    shutil.copytree(teacher, copy)

    def dying(self: Checkpoints, *arguments: Any) -> None:
        raise Killed

    experiment = replace(TINY, data=str(two_splits), strategy=f"full,distill={copy}", epochs=1, save_every=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", dying)
        with pytest.raises(Killed):
            train(experiment, out=tmp_path / "killed", plugins=plugins)
    shutil.move(copy, tmp_path / "away")
    with refused(UsageError, f"distill={copy}", "no run"):
        resume(tmp_path / "killed", plugins=plugins)
    shutil.move(tmp_path / "away", copy)
    weights = copy / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"abcd")
    with refused(ZooError, "model.safetensors", "damaged"):
        resume(tmp_path / "killed", plugins=plugins)
    record = read_json(copy / "run.json")
    write_json(copy / "run.json", {**record, "weights_sha256": None})
    with refused(ZooError, "teacher", "changed since"):
        resume(tmp_path / "killed", plugins=plugins)
    weights.write_bytes(kept)
    assert resume(tmp_path / "killed", plugins=plugins).status == "finished"


def test_what_cannot_teach_is_refused_before_anything_is_written(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy=f"full,distill={teacher}", epochs=1)
    others = make_photos(tmp_path / "others", {"train": 4, "val": 2}, classes=("green", "red"))
    with refused(UsageError, "classes", "distill="):
        train(replace(experiment, data=str(others)), out=tmp_path / "out", plugins=plugins)
    with refused(UsageError, "classes", "distill="):
        plan(replace(experiment, data=str(others)), plugins=plugins)
    for strategy, words in (
        ("full,distill=nowhere", ("nowhere", "no run")),
        (f"full,distill={teacher},mixup=0.2", ("mixup", "distill")),
        (f"full,distill={teacher},distill_weight=1.5", ("distill_weight", "1.5")),
        (f"full,distill={teacher},distill_weight=0", ("distill_weight", "0")),
        (f"full,distill={teacher},distill_temperature=nan", ("distill_temperature", "nan")),
        ("full,distill_weight=0.5", ("distill_weight", "without")),
        (f"knn:3,distill={teacher}", ("distill", "no optimiser steps")),
    ):
        with refused(UsageError, *words):
            train(replace(experiment, strategy=strategy), out=tmp_path / "out", plugins=plugins)
    copy = tmp_path / "stopped"
    shutil.copytree(teacher, copy)
    write_json(copy / "run.json", {**read_json(copy / "run.json"), "status": "failed"})
    with refused(ZooError, "failed", "--resume"):
        train(replace(experiment, strategy=f"full,distill={copy}"), out=tmp_path / "out", plugins=plugins)
    assert not (tmp_path / "out").exists()
    phase = Phase(name="full", groups=(), distill=str(teacher))
    assert open_teachers([phase], ("red", "blue"))[str(teacher)].rows == (1, 0)  # matched by name


def test_a_relative_path_of_a_teacher_is_found_from_any_folder(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run, a study, a settings file and a study file; where a file has it, it begins at the file's folder."""
    (tmp_path / "big run").symlink_to(teacher)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    known = f"full,distill={tmp_path / 'big run'}"
    experiment = replace(TINY, data=str(two_splits), strategy="full,distill=big run", epochs=1)
    start = start_of(experiment, None, False, plugins)
    assert start.experiment.strategy == known
    assert start.folder.name.endswith("test_resnet-full-distillbig run")  # not of all folders above it
    (tmp_path / "run.toml").write_text('data = "photos"\nbackbone = "resnet18"\nstrategy = "full,distill=big run"\n')
    (tmp_path / "study.toml").write_text(
        'data = "photos"\nbackbones = "resnet18"\nstrategies = ["linear", "full,distill=big run"]\n'
        'also = [["resnet34", "full, distill = big run ,epochs=2"]]\n'
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = click.Context(click.Group("zoo"), obj=plugins)
    with train_command.make_context("train", ["../run.toml"], parent=root) as context:
        assert context.params["strategy"] == f"full,distill={tmp_path / 'elsewhere/../big run'}"
    found = Study.from_file(tmp_path / "study.toml", plugins)
    assert found.strategies == ("linear", known)
    assert found.also == (("resnet34", f"full, distill = {tmp_path / 'big run'} ,epochs=2"),)
    asked = Study(data="photos", backbones=("resnet18",), strategies=("full,distill=../big run",))
    assert asked.located(plugins).strategies == (f"full,distill={tmp_path / 'elsewhere/../big run'}",)
    (tmp_path / "a+b").mkdir()
    monkeypatch.chdir(tmp_path / "a+b")
    with refused(UsageError, "distill=../big run", "a+b", "ln -s"):
        train(replace(experiment, strategy="full,distill=../big run"), plugins=plugins)


def test_a_student_does_not_replace_its_teacher(teacher: Path, two_splits: Path, plugins: Plugins) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy=f"linear+full,distill={teacher}", epochs=2)
    for out in (teacher, teacher.parent):
        with refused(UsageError, "holds", f"distill={teacher}"):
            train(experiment, out=out, force=True, plugins=plugins)
    assert (teacher / "model.safetensors").is_file()


def test_a_teacher_that_saw_the_held_out_images_is_told(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    swapped = tmp_path / "swapped"  # the student reports on what the teacher was trained on
    shutil.copytree(two_splits / "train", swapped / "val")
    shutil.copytree(two_splits / "val", swapped / "train")
    said: list[str] = []

    class Said(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    experiment = replace(TINY, data=str(swapped), strategy=f"full,distill={teacher}", epochs=1)
    train(experiment, out=tmp_path / "run", plugins=plugins, progress=Said())
    assert any("24 images" in text and "optimistic" in text for text in said)
    before = {"run": str(teacher), **{name: Run.open(teacher).record[name] for name in ("id", "weights_sha256")}}
    later = tmp_path / "later"  # it goes on from the teacher, with other images
    shutil.copytree(tmp_path / "run", later)
    write_json(later / "run.json", {**read_json(later / "run.json"), "from": before})
    said.clear()
    run = train(
        replace(experiment, strategy=f"full,distill={later}"), out=tmp_path / "run2", plugins=plugins, progress=Said()
    )
    assert any("24 images" in text and "optimistic" in text for text in said) and run.status == "finished"
    write_json(later / "run.json", {**read_json(later / "run.json"), "from": {**before, "run": "gone"}})
    said.clear()
    train(
        replace(experiment, strategy=f"full,distill={later}"), out=tmp_path / "run3", plugins=plugins, progress=Said()
    )
    assert any("which images run `gone` was trained on is unknown" in text for text in said)


def test_a_card_names_the_teacher_and_no_folder(
    teacher: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy=f"full,distill={teacher},distill_weight=0.5", epochs=1)
    run = train(experiment, out=tmp_path / "run", plugins=plugins)
    assert "distill=big,distill_weight=0.5" in card(run) and str(teacher.parent) not in card(run)
    assert str(teacher.parent) not in json_text(file_metadata(run))
