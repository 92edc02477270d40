"""Folds and final runs, end to end on small real networks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import TINY, make_photos

from zoo import Plugins, Run, UsageError, ZooError, compare, evaluate, export, resume, train, train_final
from zoo.feature_cache.loader import PrefixOutputs
from zoo_cli.main import run as run_zoo


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


def test_resume_after_kill_9_keeps_finished_folds(photos: Path, tmp_path: Path) -> None:
    settings = ["--backbone", "timm/test_resnet", "--weights", "none", "--strategy", "full", "--epochs", "12"]
    settings += ["--image-size", "32", "--batch-size", "8", "--save-every", "0s", "--folds", "2", "--data", str(photos)]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    zoo = [sys.executable, "-m", "zoo_cli.main", "train"]
    process = subprocess.Popen([*zoo, *settings, "--out", str(killed)], stderr=subprocess.DEVNULL)
    while not (killed / "folds" / "2" / "checkpoint.safetensors").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Run.open(killed).status == "running" == Run.open(killed / "folds" / "2").status
    kept = (killed / "folds" / "1" / "run.json").read_bytes()
    assert run_zoo(["train", "--resume", str(killed)]) == 0
    assert (killed / "folds" / "1" / "run.json").read_bytes() == kept
    assert Run.open(killed / "folds" / "2").record["resumed"][0]["step"] > 0
    assert run_zoo(["train", *settings, "--out", str(whole)]) == 0
    one, other = Run.open(killed), Run.open(whole)
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


@pytest.mark.parametrize("folds", [0, 1, 1001])
def test_a_number_of_folds_that_is_none_is_refused(folds: int) -> None:
    with pytest.raises(UsageError, match=r"`--folds .*` is outside 2 to 1,000"):
        replace(TINY, folds=folds)


def test_more_folds_than_images_of_a_class_are_refused(photos: Path, tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ZooError, match="class `blue` has 12 images, and `--folds 13` needs 13") as raised:
        train(replace(TINY, data=str(photos), folds=13), out=tmp_path / "x", plugins=plugins)
    assert raised.value.hint == "pass `--folds 12`, or add images" and not (tmp_path / "x").exists()
