"""Callbacks observe a run and change nothing of it, whatever they do; a resumed run tells each epoch once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recording_callbacks import seen, with_callbacks
from tests_support import TINY, Killed

from zoo import Experiment, Plugins, Run, UsageError, plan, resume, study, train
from zoo.progress import Silent
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.runner import StudySession
from zoo.studies.study import Study
from zoo.studies.trial import Trial, TrialResult, result_of_folder
from zoo.testing import check_callback
from zoo.training.checkpoint import Checkpoints

EXPERIMENT = replace(TINY, strategy="linear+full", epochs=2, save_every=0.0)
SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu"}
BAD = {
    "raises": "in `EpochEnded 1`: ConnectionError: no answer of https://host/x with ***",
    "hangs": "in `RunStarted`: no answer within 0.3 seconds",
    "hangs_at_the_end": "in `RunEnded`",
    "exits": "in `RunStarted`: its process ended with status 3",
    "kills_itself": "its process ended with status 4",
    "no_function": "returned a `int`, not a function of an event",
    "gives_text": "it returned a `str`, not a mapping or None",
    "gives_object": "what JSON cannot hold",
    "gone": "cannot be loaded: No module named 'zoo_no_such_module'",
}


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def loaded() -> Plugins:
    return with_callbacks()


@pytest.fixture(scope="module")
def plain(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Run:
    """A run that nothing observes."""
    experiment = replace(EXPERIMENT, data=str(two_splits))
    return train(experiment, out=tmp_path_factory.mktemp("plain") / "run", plugins=plugins)


def test_events_of_a_run_in_their_order(
    two_splits: Path, tmp_path: Path, plain: Run, loaded: Plugins, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=("recorder:hello", "meddler"))
    run = train(experiment, out=tmp_path / "run", plugins=loaded)
    assert run.record["weights_sha256"] == plain.record["weights_sha256"] and run.metrics == plain.metrics
    assert run.record["callbacks"] == [
        {"name": "losses/recorder", "options": {"note": "hello"}, "distribution": None, "failure": None},
        {"name": "losses/meddler", "options": {}, "distribution": None, "failure": None},
    ]
    assert capfd.readouterr().out == ""
    events = seen(run.path)
    names = [Path(one["file"]).name if one["event"] == "FileWritten" else one["event"] for one in events]
    assert names == [
        *("RunStarted", "splits.json", "EpochEnded", "EpochEnded", "EpochEnded", "model.safetensors", "Evaluated"),
        *("predictions-val.safetensors", "history.jsonl", "run.json", "RunEnded"),
    ]
    assert {one["note"] for one in events} == {"hello"}
    first, last, figures = events[0], events[-1], seen(run.path, "Evaluated")[0]
    assert first["record"]["backbone"] == "timm/test_resnet" and not first["resumed"] and first["group"] is None
    assert [one["record"] for one in seen(run.path, "EpochEnded")] == run.history
    assert last["status"] == "finished" and last["record"]["weights_sha256"] == run.record["weights_sha256"]
    assert figures["metrics"] == run.metrics and sum(map(sum, figures["confusion"])) == figures["images"] == 12
    # a run that replaces it starts anew
    again = train(replace(experiment, callback=("recorder",)), out=run.path, force=True, plugins=loaded)
    assert len(seen(again.path, "RunStarted")) == 1 and seen(again.path)[0]["kept"] == {}


def test_no_callback_ends_or_changes_a_run(
    two_splits: Path, tmp_path: Path, plain: Run, loaded: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", "a1b2c3d4e5f6")
    said = Said()
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=(*BAD, "recorder"))
    run = train(experiment, out=tmp_path / "run", plugins=loaded, progress=said)
    assert run.status == "finished" and run.record["weights_sha256"] == plain.record["weights_sha256"]
    failures = {one["name"].removeprefix("losses/"): one["failure"] for one in run.record["callbacks"]}
    assert failures.pop("recorder") is None and len(seen(run.path, "EpochEnded")) == 3
    for name, reason in BAD.items():
        assert reason in failures[name]
        told = [text for text in said.warnings if f"`losses/{name}`" in text]
        assert len(told) == 1 and "the run goes on without it" in told[0] and reason in told[0]
    everything = "".join(file.read_text() for file in run.path.glob("**/*.json*"))
    assert "HIDDEN" not in everything and "a1b2c3d4e5f6" not in everything


def test_what_a_callback_says_is_one_line(two_splits: Path, tmp_path: Path, loaded: Plugins) -> None:
    said = Said()
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=("shouts",), epochs=1)
    run = train(experiment, out=tmp_path / "run", plugins=loaded, progress=said)
    (note,) = [text for text in said.notes if "shouts" in text]
    assert note == "callback `losses/shouts`: " + " ".join(["[bold]there[/bold] [2J"] * 3)
    (failure,) = [one["failure"] for one in run.record["callbacks"]]
    assert failure.startswith("in `EpochEnded 1`: RuntimeError: lettersxxx") and len(failure) < 300


@pytest.mark.parametrize(("count", "stop", "status"), [(0, Killed, "failed"), (4, KeyboardInterrupt, "interrupted")])
def test_a_resumed_run_tells_each_epoch_once(
    count: int,
    stop: type[BaseException],
    status: str,
    two_splits: Path,
    tmp_path: Path,
    plain: Run,
    loaded: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before the first checkpoint, within an epoch, and after one."""
    left, write = [count], Checkpoints.write

    def dying(self: Checkpoints, *arguments: Any) -> None:
        if left[0] == 0:
            left[0] = -1
            raise stop
        left[0] -= 1
        write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "write", dying)
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=("recorder",))
    with pytest.raises(stop):
        train(experiment, out=tmp_path / "run", plugins=loaded)
    run = resume(tmp_path / "run", plugins=loaded)
    assert run.record["weights_sha256"] == plain.record["weights_sha256"]
    assert [one["number"] for one in seen(run.path, "EpochEnded")] == [1, 2, 3]
    losses = [one["record"]["train_loss"] for one in seen(run.path, "EpochEnded")]
    assert losses == [line["train_loss"] for line in run.history]
    begun = seen(run.path, "RunStarted")
    assert [(one["resumed"], one["kept"]) for one in begun] == [(False, {}), (True, {"sessions": 1})]
    assert len(seen(run.path, "Evaluated")) == 1
    assert [one["status"] for one in seen(run.path, "RunEnded")] == [status, "finished"]


def test_a_run_goes_on_where_its_callback_is_not_installed(
    two_splits: Path, tmp_path: Path, plain: Run, loaded: Plugins, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that failed in the first session is told what it missed in the next."""
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=("recorder",))
    shutil.copytree(train(experiment, out=tmp_path / "run", plugins=loaded).path, tmp_path / "killed")
    killed = tmp_path / "killed"
    (file,) = (killed / "callbacks").glob("losses-recorder-*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "epochs": 1, "evaluated": False}))
    (killed / "callbacks" / "seen.jsonl").unlink()
    Run.open(killed).update(status="interrupted")
    shutil.copytree(killed, tmp_path / "other")
    said = Said()
    run = resume(tmp_path / "other", plugins=plugins, progress=said)
    assert run.record["weights_sha256"] == plain.record["weights_sha256"]
    assert sum("unknown callback `recorder`" in text for text in said.warnings) == 1
    resume(killed, plugins=loaded)
    assert [one["number"] for one in seen(killed, "EpochEnded")] == [2, 3]
    assert len(seen(killed, "Evaluated")) == 1


@pytest.mark.parametrize(
    ("texts", "reason", "hint"),
    [
        (("needy",), "callback `losses/needy` needs zoo_no_such_module, which is not installed", "`pip install needy`"),
        (("recordr",), "unknown callback `recordr`", "did you mean `recorder`"),
        (("recorder", "losses/recorder"), "callback `losses/recorder` is given twice", "give it once"),
        (
            ("recorder:http://me:HIDDEN@host,note=x",),
            "`--callback recorder:http://host,note=x` was given with a pass",
            "KEY",
        ),
        (("recorder:http://me:HI,DDEN@host",), "was given with a password or a token", "credentials"),
        (("recorder:https://host/x?token=HIDDEN",), "was given with a password or a token", "credentials"),
        (("recorder,nte=x",), "`recorder` has no option `nte`", "did you mean `note`"),
        (("hangs", "needy", "recordr"), "needs zoo_no_such_module, which is not installed; unknown callback", ""),
    ],
)
def test_a_callback_that_could_not_work_is_refused_before_training(
    texts: tuple[str, ...], reason: str, hint: str, two_splits: Path, tmp_path: Path, loaded: Plugins
) -> None:
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=texts)
    for call in (
        lambda: train(experiment, out=tmp_path / "run", plugins=loaded),
        lambda: plan(experiment, plugins=loaded),
    ):
        with pytest.raises(UsageError) as found:
            call()
        assert reason in found.value.message and hint in (found.value.hint or "")
        assert "HIDDEN" not in str(found.value) and "DDEN" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_wrong_types_are_refused() -> None:
    for wrong in (3, [""], ["x", 3], {"tensorboard": 1}):
        with pytest.raises(UsageError, match="--callback"):
            replace(EXPERIMENT, callback=wrong)  # type: ignore[arg-type]
    assert replace(EXPERIMENT, callback="recorder").callback == ("recorder",)  # type: ignore[arg-type]
    assert Experiment.from_json(json.loads(json.dumps(EXPERIMENT.to_json()))) == EXPERIMENT


def test_folds_are_told_as_a_group(two_splits: Path, tmp_path: Path, loaded: Plugins) -> None:
    experiment = replace(EXPERIMENT, data=str(two_splits), strategy="linear", folds=2, callback=("recorder",))
    run = train(experiment, out=tmp_path / "run", plugins=loaded)
    begun = {one["name"]: one["group"] for path in ("", "folds/1", "folds/2") for one in seen(run.path / path)[:1]}
    assert begun == {"run": None, "run-fold-1": "run", "run-fold-2": "run"}
    (pooled,) = seen(run.path, "Evaluated")
    assert pooled["split"] == "folds" and pooled["images"] == 36 and pooled["metrics"] == run.metrics


def test_the_laws_of_callbacks_find_what_breaks_them(loaded: Plugins) -> None:
    check_callback("meddler", plugins=loaded)
    with pytest.raises(AssertionError, match="fails in `EpochEnded`: ConnectionError"):
        check_callback("raises", plugins=loaded)
    with pytest.raises(AssertionError, match="no answer within"):
        check_callback("hangs_at_the_end", plugins=loaded)


class InThisProcess:
    """Trains trials here, with the callbacks of the test. Implements `TrialExecutor`."""

    slots = 1

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def submit(self, trial: Trial, experiment: Experiment, folder: Path, tuned: Any = None) -> Future[TrialResult]:
        train(experiment, out=folder, plugins=self._plugins)
        future: Future[TrialResult] = Future()
        result = result_of_folder(trial, folder)
        assert result is not None
        future.set_result(result)
        return future

    def cancel(self) -> None: ...


def test_a_study_is_a_group_and_says_which_callback_failed(
    two_splits: Path, tmp_path: Path, loaded: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "callback": ["recorder", "exits"]}
    asked = Study(
        data=str(two_splits), backbones=("timm/test_resnet",), strategies=("linear",), settings=settings, test=False
    )
    cost = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x")
    monkeypatch.setattr(StudySession, "_deployment_costs", lambda self: {"timm/test_resnet linear": cost})
    folder = tmp_path / "birds"
    said = Said()
    found = study(asked, out=folder, plugins=loaded, progress=said, executor=InThisProcess(loaded))
    names = [result.name for result in found.outcomes]
    begun = [seen(folder / "trials" / name, "RunStarted")[0] for name in names]
    assert [(one["name"], one["group"]) for one in begun] == [(name, "birds") for name in names] and len(names) == 2
    (told,) = [text for text in said.warnings if "losses/exits" in text]
    assert "its process ended with status 3" in told and "the trial went on without it" in told
    with pytest.raises(UsageError, match="needs zoo_no_such_module"):
        study(replace(asked, settings={**SETTINGS, "callback": ["needy"]}), out=tmp_path / "other", plugins=loaded)


KILLED = """
import os, signal, sys, time
from pathlib import Path
from recording_callbacks import with_callbacks
from zoo.callback import RunStarted
from zoo.config.choice import choose
from zoo.training.observers import Observer
plugins, folder = with_callbacks(), Path(sys.argv[1])
observer = Observer(choose("slow", plugins.callbacks, plugins), folder)
observer.send(RunStarted(name="x", folder=folder, group=None, record={}, resumed=False, kept={}))
while not (folder / "callbacks" / "begun").exists():
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_a_whole_log(tmp_path: Path) -> None:
    """Its callbacks finish what they do, note it, and end."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environ, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    ended = tmp_path / "callbacks" / "ended"
    until = time.monotonic() + 60
    while not ended.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert ended.exists()
    (file,) = (tmp_path / "callbacks").glob("losses-slow-*.json")
    assert json.loads(file.read_text())["kept"] == {"run": "x"}
