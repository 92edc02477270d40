"""Folds and final runs, end to end on small real networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests_support import TINY, Killed, make_photos

from zoo import (
    Plugins,
    Run,
    UsageError,
    ZooError,
    compare,
    diff,
    evaluate,
    export,
    plan,
    resume,
    train,
    train_final,
    verify,
)
from zoo.data.opening import open_images
from zoo.feature_cache.loader import PrefixOutputs
from zoo.progress import Silent
from zoo.training.checkpoint import Checkpoints
from zoo_cli.main import run as run_zoo


class Told(Silent):
    """Collects warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _pooled(run: Run) -> list[str]:
    """Ids of the images that its folds are made of: one of each class."""
    ids = sorted(run.predictions().ids)
    return [ids[0], ids[-1]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), {"": 14})


def test_every_image_is_scored_once_and_a_stopped_run_keeps_its_folds(
    photos: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(TINY, data=str(photos), strategy="linear", folds=3)
    run = train(asked, out=tmp_path / "folds", plugins=plugins)
    plain = train(replace(asked, folds=None), out=tmp_path / "plain", plugins=plugins)
    held = {name for names in plain.splits()["roles"].values() for name in names}
    assert run.status == "finished" and run.record["reported_split"] == "folds"
    assert len(run.predictions()) == len(held) == 24 and set(run.predictions().ids) == held  # 4 are in `test`
    for fold in run.folds:
        roles = fold.splits()["roles"]
        assert not set(roles["fit"]) & set(roles["reported"]) and set(roles["fit"]) | set(roles["reported"]) == held
    with pytest.raises(ZooError, match="is 3 networks"):
        evaluate(run, plugins=plugins)
    # a kill in the second fold
    (run.path / "folds" / "2" / "model.safetensors").unlink()
    (run.path / "folds" / "2" / "run.json").unlink()
    kept = (run.path / "folds" / "1" / "run.json").read_bytes()
    before = run.predictions()
    Run.open(run.path).update(status="running", metrics=None)
    again = resume(run.path, plugins=plugins)
    assert (run.path / "folds" / "1" / "run.json").read_bytes() == kept
    assert (again.predictions().logits == before.logits).all() and again.metrics == run.metrics
    other = train(replace(asked, seed=1), out=tmp_path / "seed", plugins=plugins)
    assert other.predictions().ids == before.ids and compare([again, other]) is None  # the same configuration
    final = train_final(again, out=tmp_path / "final", plugins=plugins)
    assert set(final.splits()["roles"]["fit"]) == held and final.metrics == again.metrics
    assert final.record["temperature"]["value"] > 0 and final.looks("test") == 0
    with pytest.raises(UsageError, match="was trained on all images"):
        evaluate(final, plugins=plugins)
    assert len(evaluate(final, split="test", plugins=plugins).predictions) == 4


def test_a_run_killed_within_its_second_fold_keeps_the_first(photos: Path, tmp_path: Path, plugins: Plugins) -> None:
    """In one process; test_resume.py has a real `kill -9`, of a single run."""
    asked = replace(TINY, data=str(photos), strategy="full", epochs=2, folds=2, save_every=0.0)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    write = Checkpoints.write

    def dying(self: Checkpoints, tensors: Any, state: Any) -> None:
        write(self, tensors, state)
        if (killed / "folds" / "2" / "checkpoint.safetensors").is_file():
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "write", dying)
        train(asked, out=killed, plugins=plugins)
    assert "finished" not in (Run.open(killed).status, Run.open(killed / "folds" / "2").status)
    kept = (killed / "folds" / "1" / "run.json").read_bytes()
    assert run_zoo(["train", "--resume", str(killed)]) == 0
    assert (killed / "folds" / "1" / "run.json").read_bytes() == kept
    assert Run.open(killed / "folds" / "2").record["resumed"][0]["step"] > 0
    one, other = Run.open(killed), train(asked, out=whole, plugins=plugins)
    assert one.metrics == other.metrics and (one.predictions().logits == other.predictions().logits).all()


def test_outputs_of_frozen_layers_are_computed_once_for_all_folds(
    photos: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = PrefixOutputs._compute

    def counting(self: PrefixOutputs, indices, *rest, **more):  # type: ignore[no-untyped-def]
        computed.append(len(indices))
        return compute(self, indices, *rest, **more)

    monkeypatch.setattr(PrefixOutputs, "_compute", counting)
    asked = replace(TINY, data=str(photos), strategy="linear", folds=4, split_seed=7)
    train(asked, out=tmp_path / "folds", plugins=plugins)
    assert sum(computed) <= 2 * 24  # each image as it is trained on, and as it is scored; else (3 + 1) * 24


def test_a_final_run_has_the_epochs_that_were_kept_and_can_be_exported(
    photos: Path, tmp_path: Path, plugins: Plugins
) -> None:
    asked = replace(TINY, data=str(photos), strategy="partial:1", epochs=3, keep="best")
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    losses = [line["choice_loss"] for line in run.history]
    final = train_final(run, out=tmp_path / "final", plugins=plugins)
    assert len(final.history) == losses.index(min(losses)) + 1 and "choose" not in final.record["data"]
    assert final.record["accuracy_interval_95"] == run.record["accuracy_interval_95"]
    assert export(final, plugins=plugins).parity.passed
    with pytest.raises(UsageError, match="is a final run already"):
        train_final(final, out=tmp_path / "again", plugins=plugins)
    with pytest.raises(UsageError, match="holds the run that the final run is of"):
        train_final(run, out=tmp_path / "run", force=True, plugins=plugins)


def test_a_final_run_is_told_of_other_images_and_verified_by_its_own_predictions(
    tmp_path: Path, plugins: Plugins
) -> None:
    photos = make_photos(tmp_path / "photos", {"": 14})
    in_test = open_images(str(photos), 0, plugins).splits["test"][0].id  # which the runs of folds do not open
    marked = tmp_path / "marked.csv"
    asked = replace(TINY, data=str(photos), strategy="full", epochs=1, folds=2, exclude=str(marked))
    marked.write_text(f"id\n{in_test}\n")
    run = train(asked, out=tmp_path / "folds", plugins=plugins)
    assert run.record["exclude"]["images"] == [in_test] and run.folds[0].record["exclude"]["images"] == []
    assert not any("not in the data" in note for note in run.folds[0].record["notes"])
    fold = export(run.folds[0], data=str(photos), plugins=plugins).path  # as where the images were moved
    assert verify(fold, data=str(photos), plugins=plugins)[-1].passed
    assert len(plan(asked, plugins=plugins).phases) == 1
    with pytest.raises(ZooError, match="is 2 networks"):
        export(run, plugins=plugins)
    progress = Told()
    train_final(run, out=tmp_path / "same", plugins=plugins, progress=progress)
    assert not any("no longer those" in text for text in progress.warnings)
    marked.write_text("id\n" + "".join(f"{name}\n" for name in _pooled(run)[:2]))
    final = train_final(run, out=tmp_path / "final", plugins=plugins, progress=progress)
    assert [text for text in progress.warnings if "no longer those" in text and "(2 gone)" in text]
    file = export(final, plugins=plugins).path
    for split in (None, "test", "val"):  # of other text than the run's own, so nothing is stored
        checks = verify(file, data=str(photos), split=split, plugins=plugins)
        assert checks[-1].name == "photographs" and checks[-1].passed
    with pytest.raises(UsageError, match="has no split `folds`"):
        verify(file, data=str(photos), split="folds", plugins=plugins)
    assert (final.predictions().logits == run.predictions().logits).all()
    plain = train(replace(asked, folds=None, exclude=None), out=tmp_path / "plain", plugins=plugins)
    with pytest.raises(ZooError, match="no predictions of `folds`") as told:
        diff(run, plain)
    assert "zoo evaluate" not in str(told.value.hint)


def test_figures_on_test_stay_those_of_the_earlier_run(tmp_path: Path, plugins: Plugins) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 6, "test": 3})
    asked = replace(TINY, data=str(photos), strategy="full", epochs=1)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    assert run.record["reported_split"] == "test"
    final = train_final(run, out=tmp_path / "final", plugins=plugins)
    evaluate(final, split="test", plugins=plugins)
    assert (final.predictions().logits == run.predictions().logits).all() and final.looks("test") == 1


def test_near_duplicates_in_the_test_split_are_told_where_there_are_folds(tmp_path: Path, plugins: Plugins) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 6, "test": 3})
    first, last = sorted((photos / "train").rglob("*.jpg"))[0], sorted((photos / "test").rglob("*.jpg"))[0]
    pattern = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    image = Image.fromarray(pattern).resize((256, 256), Image.Resampling.BICUBIC)
    image.save(first)
    image.resize((160, 160)).save(last)
    progress = Told()
    asked = replace(TINY, data=str(photos), strategy="linear", folds=2, leak_check="near")
    train(asked, out=tmp_path / "run", plugins=plugins, progress=progress)
    assert [text for text in progress.warnings if first.name in text and "test" in text]
    with pytest.raises(ZooError, match=first.name):
        train(replace(asked, on_leak="fail"), out=tmp_path / "other", plugins=plugins)


def test_the_plan_of_folds_is_of_all_trainings_on_the_images_of_one(photos: Path, plugins: Plugins) -> None:
    asked = replace(TINY, data=str(photos), strategy="full", epochs=2, batch_size=4)
    one = plan(replace(asked, data=f"fold:1/3:{photos}"), plugins=plugins)
    folds = plan(replace(asked, folds=3), plugins=plugins)
    assert folds.images == one.images == 16 and one.steps and folds.steps == 3 * one.steps
    assert any("it trains 3 times" in note for note in folds.notes)


@pytest.mark.parametrize("folds", [0, 1, 1001])
def test_a_number_of_folds_that_is_none_is_refused(folds: int) -> None:
    with pytest.raises(UsageError, match=r"`--folds .*` is outside 2 to 1,000"):
        replace(TINY, folds=folds)


def test_more_folds_than_images_of_a_class_are_refused(photos: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ZooError, match="class `blue` has 12 images, and `--folds 13` needs 13") as raised:
        train(replace(TINY, data=str(photos), folds=13), out=tmp_path / "x", plugins=plugins)
    assert raised.value.hint == "pass `--folds 12`, or add images" and not (tmp_path / "x").exists()


def test_data_of_a_final_run_cannot_be_trained_on_without_the_run(
    photos: Path, tmp_path: Path, plugins: Plugins
) -> None:
    with pytest.raises(UsageError, match="holds no image out") as told:
        train(replace(TINY, data=f"final:{photos}"), out=tmp_path / "run", plugins=plugins)
    assert "--final RUN" in str(told.value.hint) and not (tmp_path / "run").exists()
