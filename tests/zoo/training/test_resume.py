"""Resuming: a stopped run ends with the weights of an uninterrupted one, or an error names the difference."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from shared import digest
from tests_support import TINY, Killed, make_photos

from zoo import Plugins, Run, UsageError, ZooError, resume, train
from zoo.progress import Silent
from zoo.runs.kept_list import as_begun, as_it_is_now
from zoo.storage.files import read_json, write_json
from zoo.training.checkpoint import Checkpoints
from zoo.training.recipe import Recipe
from zoo_cli.main import run as run_zoo

# Every kind of state: two optimisers' moments, an average, mixup's draws, dropout, moving statistics, a recalibration,
# what was best so far in a phase and in the run, a lowered rate
SETTINGS: dict[str, Any] = {
    "steps": {"strategy": "linear,solver=sgd,epochs=2+partial:1,epochs=2,ema=0.8,mixup=0.4+full,epochs=1,norm=train"},
    "best": {
        "strategy": "partial:1,epochs=3+full,epochs=2,norm=recalibrate",
        "early_stopping": 1,
        "keep": "best",
        "schedule": "plateau",
        "dropout": 0.3,
        "backbone": "timm/test_efficientnet",
    },
    "sgd": {"strategy": "l2sp:0.5,epochs=2+full,epochs=1,cutmix=1.0", "optimizer": "sgd", "accumulate": 2},
    "state in groups": {"strategy": "partial:1,epochs=2+full,epochs=2", "optimizer": "lamb", "schedule": "step:2"},
    "solved": {"strategy": "lpft", "epochs": 2},
    "lora": {"strategy": "linear,solver=sgd,epochs=1+lora:2,epochs=2", "backbone": "timm/test_vit"},
    "dora": {"strategy": "dora:2", "epochs": 2, "backbone": "timm/test_vit"},
    "delta": {"strategy": "delta:0.5,pull=0.1", "epochs": 2, "accumulate": 2},
    "drawn statistics": {"strategy": "partial:1,stochnorm=0.5,bss=0.1", "epochs": 2, "accumulate": 2},
    "truncated": {"strategy": "truncate:1+full", "epochs": 2},
    "found": {"strategy": "partial:1", "epochs": 2, "lr": "find"},
    "best of a solved head": {"strategy": "linear+full", "epochs": 2, "keep": "best"},
}

BASE = replace(TINY, save_every=0.0)


def die_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Die, once, after that many checkpoints more."""
    write = Checkpoints.write
    left = [count]

    def dying(self: Checkpoints, *arguments: Any) -> None:
        if left[0] == 0:
            left[0] = -1
            raise Killed
        left[0] -= 1
        write(self, *arguments)

    patch.setattr(Checkpoints, "write", dying)


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda count: die_after(count, monkeypatch)


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def same(one: Run, other: Run) -> None:
    assert one.record["weights_sha256"] == other.record["weights_sha256"]
    figures = [[(line["phase"], line["epoch"], line["train_loss"]) for line in run.history] for run in (one, other)]
    assert figures[0] == figures[1]
    choices = [[line.get("choice_loss") for line in run.history] for run in (one, other)]
    rates = [[line.get("lr") for line in run.history] for run in (one, other)]
    assert rates[0] == rates[1]
    assert choices[0] == choices[1]


def test_a_lowered_rate_stays_lowered(
    three_splits: Path, tmp_path: Path, plugins: Plugins, dies: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recipe, "_validate", lambda self: {"choice_loss": 1.0, "choice_accuracy": 0.5})
    experiment = replace(BASE, data=str(three_splits), strategy="full", epochs=8, schedule="plateau")
    whole = train(experiment, out=tmp_path / "whole", plugins=plugins)
    dies(whole.record["steps"] * 5 // 8 + 1)  # in the sixth epoch, after the rate was lowered
    with pytest.raises(Killed):
        train(experiment, out=tmp_path / "killed", plugins=plugins)
    again = resume(tmp_path / "killed", plugins=plugins)
    same(whole, again)
    rates = [[line["lr"] for line in run.history] for run in (whole, again)]
    assert rates[0] == rates[1] and rates[0][5] < rates[0][0]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_run_killed_three_times_ends_with_the_same_weights(
    settings: dict[str, Any],
    three_splits: Path,
    tmp_path: Path,
    plugins: Plugins,
    dies: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.training.lr_finder.STEPS", 20)
    experiment = replace(BASE, data=str(three_splits), **settings)
    whole = train(experiment, out=tmp_path / "whole", plugins=plugins)
    steps = whole.record["steps"]
    assert steps >= 6
    dies(steps // 3)
    with pytest.raises(Killed):
        train(experiment, out=tmp_path / "killed", plugins=plugins)
    for _ in range(2):
        dies(steps // 4)
        with pytest.raises(Killed):
            resume(tmp_path / "killed", plugins=plugins)
    said = Said()
    torch.manual_seed(99)  # what the process did before is of no matter
    again = resume(tmp_path / "killed", plugins=plugins, progress=said)
    same(whole, again)
    at = [session["step"] for session in again.record["resumed"]]
    assert at == [steps // 3 + count * (steps // 4) for count in range(3)]
    assert any(f"resumed at step {at[-1]} " in note for note in said.notes)
    assert again.status == "finished" and not list(again.path.glob("*checkpoint*"))
    assert again.record["steps"] == steps
    for run in (whole, again):
        seconds = run.record["seconds"]
        laps = {name: value for name, value in seconds.items() if name not in ("total", "of_train")}
        assert set(laps) == {"build", "scan", "train", "save", "report"}
        rounding = 0.0005 * (len(laps) + 8 * len(run.history))
        assert sum(seconds["of_train"].values()) <= laps["train"] + rounding
        assert sum(laps.values()) <= seconds["total"] + rounding
    assert again.record["checkpoints"]["written"] == steps


def test_without_a_checkpoint_it_begins_anew(
    two_splits: Path, tmp_path: Path, plugins: Plugins, dies: Callable[[int], None]
) -> None:
    experiment = replace(BASE, data=str(two_splits), epochs=2)
    whole = train(experiment, out=tmp_path / "whole", plugins=plugins)
    dies(0)
    with pytest.raises(Killed):
        train(experiment, out=tmp_path / "killed", plugins=plugins)
    same(whole, resume(tmp_path / "killed", plugins=plugins))


@pytest.fixture(scope="module")
def killed_once(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Path]:
    """A run that was killed at its fifth step of six."""
    folder = tmp_path_factory.mktemp("killed") / "killed"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_after(5, patch)
        train(replace(BASE, data=str(two_splits), epochs=2), out=folder, plugins=plugins)
    before = digest(folder)
    yield folder
    assert digest(folder) == before, "a test changed the run that others copy"


@pytest.fixture
def killed(killed_once: Path, two_splits: Path, tmp_path: Path) -> Run:
    """A copy of it, on photographs of its own."""
    shutil.copytree(two_splits, tmp_path / "photos")
    run = Run.open(shutil.copytree(killed_once, tmp_path / "killed"))
    run.update(experiment={**run.record["experiment"], "data": str(tmp_path / "photos")})
    return run


def test_a_kill_after_the_last_step_of_an_epoch_keeps_its_rate(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    experiment = replace(BASE, data=str(two_splits), epochs=2)
    whole = train(experiment, out=tmp_path / "whole", plugins=plugins)
    write = Checkpoints.write

    def dying(self: Checkpoints, tensors: Any, state: Any) -> None:
        write(self, tensors, state)
        if state["position"]["step"] == 3:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "write", dying)
        train(experiment, out=tmp_path / "killed", plugins=plugins)
    same(whole, resume(tmp_path / "killed", plugins=plugins))


def test_seconds_count_all_sessions_up_to_the_checkpoint_that_was_resumed(
    killed: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of build, scan, train, its parts and the total has its own seconds of the earlier sessions."""
    read = Checkpoints.read
    before = {"build": 1000.0, "scan": 2000.0, "train": 4000.0}
    parts = {"data": 1500.0, "rest": 1200.0, "evaluate": 800.0}

    def slow(self: Checkpoints) -> Any:
        tensors, state, problems = read(self) or pytest.fail("there is no checkpoint")
        assert set(state["laps"]) == set(before) and set(state["of_train"]) <= {*parts, "prefix", "store"}
        assert sum(state["of_train"].values()) <= state["laps"]["train"] <= state["seconds"]
        stopped = {**state["totals"], "data": 300.0, "prefix": 20.0, "store": 0.0, "total": 400.0}  # of its epoch
        return tensors, {**state, "laps": before, "seconds": 7000.0, "of_train": parts, "totals": stopped}, problems

    monkeypatch.setattr(Checkpoints, "read", slow)
    again = resume(killed, plugins=plugins)
    seconds, epoch = again.record["seconds"], again.history[-1]
    for name, least in {"data": 300.0, "prefix": 20.0, "rest": 80.0}.items():
        assert least <= epoch["seconds"][name] < least + 50, name
    assert epoch["images_per_second"] <= 0.1  # 24 images in both sessions
    for name, least in {**before, "total": 7000.0}.items():
        assert least < seconds[name] < least + 500, name
    for name, least in parts.items():
        assert least <= seconds["of_train"][name] < least + 500, name
    assert sum(seconds["of_train"].values()) <= seconds["train"] <= seconds["total"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    killed: Run, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    file = killed.path / "checkpoint.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1  # one bit of the last tensor
    file.write_bytes(data)
    said = Said()
    again = resume(killed, plugins=plugins, progress=said)
    assert any("checkpoint.safetensors` is damaged: its content does not match" in text for text in said.warnings)
    assert again.record["resumed"][0]["step"] == 4
    same(train(replace(BASE, data=str(two_splits), epochs=2), out=tmp_path / "whole", plugins=plugins), again)


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all"])
def test_when_all_checkpoints_are_damaged_each_is_named(killed: Run, plugins: Plugins, damage: bytes) -> None:
    for file in killed.path.glob("checkpoint*"):
        file.write_bytes(damage)
    with pytest.raises(ZooError, match=r"checkpoint\.safetensors` is damaged.*checkpoint-previous") as error:
        resume(killed, plugins=plugins)
    assert "--force" in str(error.value.hint)


def test_a_partial_save_is_ignored(killed: Run, plugins: Plugins) -> None:
    whole = (killed.path / "checkpoint.safetensors").read_bytes()
    (killed.path / ".checkpoint-next.safetensors.x1").write_bytes(whole[: len(whole) // 2])
    again = resume(killed, plugins=plugins)
    assert again.record["resumed"][0]["step"] == 5 and not list(again.path.glob(".checkpoint*"))


def test_a_kill_between_two_renames_loses_nothing(killed: Run, plugins: Plugins) -> None:
    (killed.path / "checkpoint.safetensors").rename(killed.path / "checkpoint-next.safetensors")
    assert resume(killed, plugins=plugins).record["resumed"][0]["step"] == 5


def photograph(root: Path) -> Path:
    return next((root / "train").rglob("*.jpg"))


def change(photos: Path) -> str:
    shutil.copy(max((photos / "train").rglob("*.jpg")), min((photos / "train").rglob("*.jpg")))
    return "is changed"


def remove(photos: Path) -> str:
    photograph(photos).unlink()
    return "is missing"


def add(photos: Path) -> str:
    shutil.copy(photograph(photos), photograph(photos).with_name("new.jpg"))
    return r"new\.jpg` is new"


def add_class(photos: Path) -> str:
    for split in ("train", "val"):
        shutil.copytree(photos / split / "red", photos / split / "violet")
    return "3 classes, the run began with 2: `violet` is new"


@pytest.mark.parametrize("meddle", [change, remove, add, add_class])
def test_other_data_are_named(killed: Run, tmp_path: Path, plugins: Plugins, meddle: Callable[[Path], str]) -> None:
    words = meddle(tmp_path / "photos")
    with pytest.raises(ZooError, match=words) as error:
        resume(killed, force=True, plugins=plugins)  # which does not help
    assert error.value.hint is not None
    assert (killed.path / "checkpoint.safetensors").is_file()  # nothing is lost


def test_other_versions_and_devices_are_named_and_can_be_forced(killed: Run, plugins: Plugins) -> None:
    record = dict(killed.record)
    record["versions"] = {**record["versions"], "torch": "1.0", "gone": "2.0"}
    record["device"] = {**record["device"], "name": "cuda:0"}
    write_json(killed.path / "run.json", record)
    with pytest.raises(
        ZooError, match=r"device is cpu, was cuda:0; gone is missing, was 2\.0; torch is .*, was 1\.0"
    ) as error:
        resume(killed.path, plugins=plugins)
    assert "--force" in str(error.value.hint)
    said = Said()
    assert resume(killed.path, force=True, plugins=plugins, progress=said).status == "finished"
    assert any("torch is" in text and "will differ" in text for text in said.warnings)


def test_the_precision_that_auto_chose_is_kept(killed: Run, plugins: Plugins) -> None:
    killed.update(device={**killed.record["device"], "precision": "bf16"})
    said = Said()
    assert resume(killed.path, plugins=plugins, progress=said).status == "finished"
    assert any("cpu bf16" in note for note in said.notes)


def test_another_precision_that_was_asked_for_is_named(killed: Run, plugins: Plugins) -> None:
    killed.update(
        device={**killed.record["device"], "precision": "bf16"},
        experiment={**killed.record["experiment"], "precision": "fp32"},
    )
    with pytest.raises(ZooError, match="precision is fp32, was bf16"):
        resume(killed.path, plugins=plugins)


@pytest.mark.parametrize("setting", ["augment", "loss", "optimizer", "schedule"])
def test_a_short_name_means_what_it_meant_when_the_run_began(killed: Run, plugins: Plugins, setting: str) -> None:
    """Another plugin, installed since, may have taken the short name."""
    killed = killed.update(
        experiment={**killed.record["experiment"], setting: "mine:3,depth=2"},
        **{setting: {"name": "acme/mine", "options": {"x": 3, "depth": 2}, "distribution": "acme 1.0"}},
    )
    for read in (as_begun, as_it_is_now):
        assert getattr(read(killed), setting) == "acme/mine:3,depth=2"
    with pytest.raises(UsageError, match=r"no plugin `acme` with .* is installed"):
        resume(killed.path, plugins=plugins)
    killed = killed.update(**{setting: {"name": "zoo/mine", "options": {}, "distribution": None}})
    assert getattr(as_begun(killed), setting) == "mine:3,depth=2"


def test_another_version_of_a_plugin_is_named(killed: Run, plugins: Plugins) -> None:
    augment = {**killed.record["augment"], "distribution": "acme 1.0"}
    killed.update(augment=augment)
    with pytest.raises(ZooError, match=r"augment is `augmentations/.*`, was `augmentations/.*` of acme 1\.0"):
        resume(killed.path, plugins=plugins)


def test_other_starting_weights_are_named(killed: Run, plugins: Plugins) -> None:
    killed.update(start_sha256="0" * 64)
    with pytest.raises(ZooError, match="starts from other weights than the run did"):
        resume(killed.path, plugins=plugins)


def test_a_frozen_tensor_that_changed_between_sessions_is_caught(killed: Run, plugins: Plugins) -> None:
    checkpoints = Checkpoints(killed.path, 0.0, killed.record["id"])
    found = checkpoints.read()
    assert found is not None
    tensors, state, _ = found
    name = next(name for name in tensors if name.startswith("model/") and name.endswith("running_mean"))
    checkpoints.write({**tensors, name: tensors[name] + 1}, state)
    with pytest.raises(ZooError, match="the frozen tensors differ"):
        resume(killed.path, plugins=plugins)


def test_a_checkpoint_of_a_version_that_kept_less_of_an_optimizer_is_refused(killed: Run, plugins: Plugins) -> None:
    checkpoints = Checkpoints(killed.path, 0.0, killed.record["id"])
    found = checkpoints.read()
    assert found is not None
    checkpoints.write(found[0], {name: value for name, value in found[1].items() if name != "losses"})
    with pytest.raises(ZooError, match="the checkpoint is of an earlier version of zoo"):
        resume(killed.path, plugins=plugins)


def test_a_finished_run_says_so(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    run = train(replace(BASE, data=str(two_splits), epochs=1), out=tmp_path / "run", plugins=plugins)
    said = Said()
    assert resume(run.path, plugins=plugins, progress=said).record == run.record
    assert said.notes == [f"run `{run.path}` is finished, there is nothing to resume"]


def test_what_is_no_run_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        resume(tmp_path, plugins=plugins)


def test_two_processes_do_not_train_into_one_folder(killed: Run, plugins: Plugins) -> None:
    with FileLock(killed.path / ".lock"), pytest.raises(ZooError, match="another process is training into"):
        resume(killed.path, plugins=plugins)


def test_the_history_is_cut_to_what_the_checkpoint_saw(killed: Run, plugins: Plugins) -> None:
    with (killed.path / "history.jsonl").open("a") as stream:
        stream.write('{"phase": "later", "epoch": 2, "train')  # as a kill leaves it
    again = resume(killed.path, plugins=plugins)
    assert [line["epoch"] for line in again.history] == [1, 2]


def test_saves_are_spaced_by_time_and_by_their_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("zoo.training.checkpoint.perf_counter", lambda: clock[0])
    tensors = {"a": torch.zeros(3)}

    def due_after(checkpoints: Checkpoints, seconds: float) -> bool:
        clock[0] += seconds
        return checkpoints.due()

    fixed = Checkpoints(tmp_path, 5.0, "run")
    assert not due_after(fixed, 4.9) and due_after(fixed, 0.2)
    own = Checkpoints(tmp_path, None, "run")
    assert not due_after(own, 29.9) and due_after(own, 0.2)
    slow = iter([clock[0], clock[0] + 2.0, clock[0] + 2.0])  # a save of two seconds
    monkeypatch.setattr("zoo.training.checkpoint.perf_counter", lambda: next(slow))
    own.write(tensors, {})
    monkeypatch.setattr("zoo.training.checkpoint.perf_counter", lambda: clock[0])
    clock[0] += 2.0
    assert not due_after(own, 99.0) and due_after(own, 1.1)  # two per cent


def test_resume_after_kill_9(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 24, "val": 4})
    settings = ["--backbone", "timm/test_resnet", "--weights", "none", "--strategy", "full", "--epochs", "12"]
    settings += ["--image-size", "32", "--batch-size", "12", "--save-every", "0s", "--data", str(photos)]
    folder = tmp_path / "killed"
    zoo = [sys.executable, "-m", "zoo_cli.main", "train"]
    process = subprocess.Popen([*zoo, *settings, "--out", str(folder)], stderr=subprocess.DEVNULL)
    while not (folder / "checkpoint.safetensors").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_json(folder / "run.json")["status"] == "running"
    assert run_zoo(["train", "--resume", str(folder), "--lr", "1"]) == 2
    assert "`--lr`" in capsys.readouterr().err
    assert run_zoo(["train", "--resume", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert "resumed at step" in said.err and json.loads(said.out)["status"] == "finished"
    assert run_zoo(["train", *settings, "--out", str(tmp_path / "whole")]) == 0
    same(Run.open(tmp_path / "whole"), Run.open(folder))


def test_lost_files_are_reported_or_rebuilt(killed: Run, plugins: Plugins) -> None:
    (killed.path / "history.jsonl").unlink()
    splits = (killed.path / "splits.json").read_bytes()
    (killed.path / "splits.json").unlink()
    said = Said()
    again = resume(killed.path, plugins=plugins, progress=said)
    assert said.warnings[-1] == "`history.jsonl` has lost 1 of its lines; the weights are complete"
    assert any("there is no file" in note and "it is written again" in note for note in said.notes)
    assert (again.path / "splits.json").read_bytes() == splits
