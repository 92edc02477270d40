"""A study carried out: trials in a worker, outcomes, going on after a kill, the locked split."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from shared import made_once

from zoo import Experiment, Plugins, Run, Study, UsageError, ZooError, evaluate, study
from zoo.errors import DiskFull
from zoo.runs.looks import earlier_looks, write_locked
from zoo.storage.files import append_json
from zoo.studies.deployment_cost import DeploymentCost, NetworkLatencies
from zoo.studies.results import COSTS_FILE, Results
from zoo.studies.trial import Trial, TrialResult
from zoo.system.worker_process import WorkerFailed
from zoo.target import load_target
from zoo_cli.main import run as run_zoo

SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu", "epochs": 1}


def asked(data: Path, **changes: Any) -> Study:
    values: dict[str, Any] = {
        "data": str(data),
        "backbones": ("timm/test_resnet",),
        "strategies": ("full", "partial:1"),
        "seeds": (0, 1),
        "settings": SETTINGS,
    }
    return Study(**{**values, **changes})


def weighed(folder: Path, ways: list[str], latency: float = 0.01) -> Path:
    """A study's folder whose networks are weighed already, which takes seconds each."""
    folder.mkdir()
    one = DeploymentCost(latency=(latency, latency, latency), size=10, license="unknown", shape="x").to_json()
    (folder / COSTS_FILE).write_text(json.dumps(dict.fromkeys(ways, one)))
    return folder


WAYS = ["timm/test_resnet full", "timm/test_resnet partial:1", "timm/test_resnet partial:40"]


@pytest.fixture(scope="module")
def done(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Results]:
    """A study with a strategy that does not fit, from the first step on."""
    spec = asked(two_splits, strategies=("full", "partial:1", "partial:40"))

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("zoo.studies.deployment_cost.SECONDS", 0.05)
            study(spec, out=folder / "s", plugins=plugins)

    for folder in made_once(tmp_path_factory.getbasetemp(), "study", make):
        yield Results.open(folder / "s")


class InThisProcess:
    """The worker of a study without a process of its own, for tests that are not about its death."""

    alive = True

    def __init__(self, target: str, *, threads: int | None = None) -> None:
        self.worker = load_target(target)()

    def ask(self, do: str, timeout: float | None, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(json.dumps(getattr(self.worker, do)(**json.loads(json.dumps(request)))))
        except ZooError as error:
            raise WorkerFailed(error.message, hint=error.hint) from error
        return answer

    def close(self) -> None:
        pass


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)


def test_a_study_from_beginning_to_end(done: Results) -> None:
    states = [str(one.state) for one in done.outcomes]
    assert states.count("finished") == 4 and states.count("refused") == 2 and done.status == "finished"
    refused = [one for one in done.outcomes if one.state == "refused"]
    assert all("asks for 40 stages" in one.failure for one in refused)
    assert not list((done.path / "trials").glob("*partial_40*"))  # it was known before
    board = done.leaderboard
    assert {row["way"] for row in board["rows"]} == set(WAYS[:2]) and board["split"] == "val"
    assert all(row["images"] == 4 and row["seeds"] == [0, 1] and row["latency"][0] > 0 for row in board["rows"])
    assert board["too_few"] in done.record["notes"] and "`val` has 4 photographs, too few" in board["too_few"]
    first = done.run(done.outcomes[0])
    assert first.record["reported_split"] == "val" and first.experiment.data.startswith("locked:")


def test_deployment_costs_are_measured_before_training(done: Results) -> None:
    weighed_at = (done.path / COSTS_FILE).stat().st_mtime
    runs = [path.stat().st_mtime for path in (done.path / "trials").glob("*/run.json")]
    assert len(runs) == 4 and weighed_at < min(runs) and not (done.path / "networks").exists()
    found = json.loads((done.path / COSTS_FILE).read_text())
    assert found[WAYS[0]]["shape"] == found[WAYS[1]]["shape"] and "asks for 40" in found[WAYS[2]]["unfit"]


def test_no_worker_is_there_while_networks_are_timed(
    two_splits: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle one would still take processor time from what is measured."""
    from zoo.studies.executor import LocalProcess

    closed: list[LocalProcess] = []
    cancel = LocalProcess.cancel

    def cancelling(self: LocalProcess) -> None:
        closed.append(self)
        cancel(self)

    def asked_of(self: LocalProcess, do: str, **request: Any) -> dict[str, Any]:
        return {"unfit": "it does not fit"}

    def timing(*_: Any) -> NetworkLatencies:
        assert len(closed) == 1
        return NetworkLatencies({})

    monkeypatch.setattr(LocalProcess, "cancel", cancelling)
    monkeypatch.setattr(LocalProcess, "ask", asked_of)
    monkeypatch.setattr("zoo.studies.runner.time_networks", timing)
    found = study(asked(two_splits, strategies=("full",), test=False), out=tmp_path / "s", plugins=plugins)
    assert {one.failure for one in found.outcomes} == {"it does not fit"} and len(closed) >= 2


def test_the_locked_split_is_evaluated_once_per_winning_run(done: Results) -> None:
    board = done.leaderboard
    looks = done.looks()
    assert len(looks) == 2 * len(board["winners"]) == board["looks"]
    assert len({look["name"] for look in looks}) == len(looks)
    for one in done.outcomes:
        if one.state == "finished":
            run = done.run(one)
            assert run.looks("test") == sum(look["name"] == one.name for look in looks)
            assert run.looks("val") == 1
    for row in board["rows"]:
        if row["winner"]:
            assert row["test"]["images"] == 12


def test_looks_without_an_author_are_the_study_s_own(done: Results, tmp_path: Path) -> None:
    """Earlier versions did not write who looked."""
    ledger = shutil.copytree(done.path, tmp_path / "s") / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert all(line.pop("by") == "study" for line in lines)
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert Results.open(tmp_path / "s").leaderboard["rows"] == done.leaderboard["rows"]


@pytest.mark.usefixtures("in_this_process")
def test_every_look_counts_but_only_the_study_s_own_are_on_the_leaderboard(
    done: Results, two_splits: Path, plugins: Plugins, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "first"
    shutil.copytree(done.path, folder)
    (folder / "ledger.jsonl").unlink()
    for file in folder.glob("trials/*/predictions-test.safetensors"):
        file.unlink()
    loser = next(iter(sorted((folder / "trials").iterdir())))
    for number, (data, split) in enumerate([(None, "test"), (str(two_splits), "val"), (str(two_splits), "all")], 1):
        with pytest.warns(UserWarning, match="evaluation on the locked images of study"):
            found = evaluate(loser, data=data, split=split, plugins=plugins)
        opened = Results.open(folder)
        assert opened.leaderboard["looks"] == len(opened.looks()) == number
        last = opened.looks()[-1]
        assert (last["by"], last["name"], last["images"]) == ("evaluate", loser.name, 12) and found.metrics
        assert all(row["test"] is None for row in opened.leaderboard["rows"])
    assert (loser / "predictions-test.safetensors").is_file()  # it was seen, and is on no leaderboard
    (loser / "splits.json").unlink()  # what was fitted is unknown then, and a look is a look
    with pytest.warns(UserWarning, match="evaluation on the locked images of study"):
        assert evaluate(loser, split="test", plugins=plugins).fitted is None
    (folder / "ledger.jsonl").write_text("".join((folder / "ledger.jsonl").read_text().splitlines(keepends=True)[:3]))
    evaluate(loser, plugins=plugins)  # `val` is for looking
    assert len(Results.open(folder).looks()) == 3

    copy = tmp_path / "photos"  # the same locked images under another name
    shutil.copytree(two_splits, copy)
    begin(weighed(tmp_path / "second", WAYS[:1]), asked(copy, strategies=("full",), seeds=(0,)))
    second = study(tmp_path / "second", plugins=plugins)
    assert second.leaderboard["looks"] == 1 and second.leaderboard["earlier_looks"] == {"first": 3}
    assert "study `first` has evaluated on these locked images 3 times" in caplog.text
    assert second.leaderboard["rows"][0]["test"]["images"] == 12


@pytest.mark.usefixtures("in_this_process")
def test_looks_of_studies_in_other_folders_are_known(
    done: Results, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    mine, other = tmp_path / "here/mine", tmp_path / "there/other"
    for folder in (mine, other):
        shutil.copytree(done.path, folder)
        (folder / "ledger.jsonl").unlink()
    loser = next(iter(sorted((other / "trials").iterdir())))

    def look(folder: Path = other) -> None:
        with pytest.warns(UserWarning, match="evaluation on the locked images of study"):
            evaluate(folder / "trials" / loser.name, split="test")

    assert earlier_looks(mine) == {}
    look()
    look()
    assert earlier_looks(mine) == {str(other): 2} == Results.open(mine).compare(plugins)[0]["earlier_looks"]
    assert earlier_looks(other) == {}, "its own looks are in its ledger"
    kept = (other / "locked.json").read_text()
    some = json.loads(kept)["sha256"]
    (other / "locked.json").write_text(json.dumps({"schema": 1, "sha256": some[:1]}))
    assert earlier_looks(mine) == {str(other): 2}, "one image is enough"
    (other / "locked.json").write_text(json.dumps({"schema": 1, "sha256": ["0" * 64]}))
    assert earlier_looks(mine) == {}
    shutil.rmtree(other)
    assert earlier_looks(mine) == {f"{other} (deleted or moved)": 2}
    look(mine)
    (mine / "ledger.jsonl").unlink()
    assert earlier_looks(mine)[f"{mine} (deleted or moved)"] == 1
    (tmp_path / "cache/looks.jsonl").write_text('[1]\n{"study": 1}\nno json\n')
    assert earlier_looks(mine) == {}
    shutil.rmtree(tmp_path / "cache")
    assert earlier_looks(mine) == {}
    (tmp_path / "cache").write_text("a file")  # where nothing can be written
    look(mine)
    assert len(Results.open(mine).looks()) == 1 and earlier_looks(mine) == {}


def test_a_study_beside_has_looked_where_it_shares_a_locked_image(tmp_path: Path) -> None:
    for name, (locked, looks) in {
        "this": ("abc", 1),
        "same": ("abc", 1),
        "one_of_them": ("cde", 2),
        "none_of_them": ("de", 1),
        "never_looked": ("abc", 0),
    }.items():
        (tmp_path / name).mkdir()
        write_locked(tmp_path / name, locked)
        for _ in range(looks):
            append_json(tmp_path / name / "ledger.jsonl", {"split": "test"})
    assert earlier_looks(tmp_path / "this") == {"one_of_them": 2, "same": 1}


def test_a_finished_study_is_not_carried_out_again(done: Results, plugins: Plugins, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    shutil.copytree(done.path, folder)
    before = {path: path.stat().st_mtime for path in folder.rglob("run.json")}
    again = study(folder, plugins=plugins)
    assert again.leaderboard == done.leaderboard and again.outcomes == done.outcomes
    assert json.loads((folder / "leaderboard.json").read_text()) == done.leaderboard
    assert before == {path: path.stat().st_mtime for path in folder.rglob("run.json")} and len(before) == 4
    assert again.looks() == done.looks()


def test_a_folder_of_another_study_is_refused(
    done: Results, two_splits: Path, plugins: Plugins, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds another study, which differs in `seeds`, `strategies`"):
        study(asked(two_splits, seeds=(7,)), out=done.path, plugins=plugins)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a study"):
        study(asked(two_splits), out=tmp_path, plugins=plugins)


@pytest.mark.usefixtures("in_this_process")
def test_networks_over_the_latency_bound_are_not_trained(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:2])
    footprints = json.loads((folder / COSTS_FILE).read_text())
    footprints[WAYS[0]]["latency"] = [0.5, 0.5, 0.5]
    (folder / COSTS_FILE).write_text(json.dumps(footprints))
    shutil.copy(folder / COSTS_FILE, tmp_path / "kept")
    begin(folder, asked(two_splits, max_latency=0.1, seeds=(0,)))
    found = study(folder, plugins=plugins)
    states = {one.trial.strategy: one.state for one in found.outcomes}
    assert states == {"full": "refused", "partial:1": "finished"}
    assert [path.name.split("-")[1] for path in (folder / "trials").iterdir()] == ["partial_1"]
    assert any("one seed" in note for note in found.leaderboard["notes"])


def begin(folder: Path, spec: Study) -> None:
    """`study.json` as the first session leaves it."""
    record = {"schema": 1, "study": json.loads(json.dumps(spec.to_json())), "status": "running", "trials": 0}
    (folder / "study.json").write_text(json.dumps(record))


def test_a_worker_that_dies_is_an_outcome(
    two_splits: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed as for want of memory; the next trial gets a new one."""
    from zoo.studies.executor import LocalProcess

    folder = weighed(tmp_path / "s", WAYS[:2])
    begin(folder, asked(two_splits, seeds=(0,), test=False))
    train = LocalProcess._train

    def killing(self: LocalProcess, trial: Trial, *rest: Any) -> TrialResult:
        if trial.strategy == "full":
            with pytest.raises(Exception):  # noqa: B017 - only to have a worker
                self.ask("score", run="nowhere", split="val")
            assert self._worker is not None
            os.kill(self._worker._process.pid, signal.SIGKILL)
        return train(self, trial, *rest)

    monkeypatch.setattr(LocalProcess, "_train", killing)
    found = study(folder, plugins=plugins)
    assert [(one.trial.strategy, one.state) for one in found.outcomes] == [
        ("full", "failed"),
        ("partial:1", "finished"),
    ]
    assert "killed by SIGKILL" in found.outcomes[0].failure
    monkeypatch.setattr(LocalProcess, "_train", train)
    assert study(folder, plugins=plugins).outcomes == found.outcomes  # it is not tried again
    monkeypatch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)
    again = study(folder, retry=True, plugins=plugins)
    assert [one.state for one in again.outcomes] == ["finished", "finished"]
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 3
    assert again.looks() == [] and all(row["test"] is None for row in again.leaderboard["rows"])


def test_two_jobs_give_what_one_gives(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    spec = asked(two_splits, settings={**SETTINGS, "precision": "fp32"})  # `auto` measures which is faster
    alone, beside = (weighed(tmp_path / name, WAYS[:2]) for name in ("alone", "beside"))
    begin(alone, spec)
    begin(beside, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)
        one = study(alone, plugins=plugins)
    two = study(beside, plugins=plugins, jobs=2)
    before = {result.name: result for result in one.outcomes}
    assert len(before) == 4 and sorted(result.name for result in two.outcomes) == sorted(before)  # each once
    for result in two.outcomes:
        run, same = two.run(result), one.run(before[result.name])
        assert result.metrics == before[result.name].metrics
        assert np.array_equal(run.predictions().logits, same.predictions().logits)
        assert run.looks("test") == same.looks("test")
    looks = [sorted((look["name"], look["metrics"]["accuracy"]) for look in found.looks()) for found in (one, two)]
    assert looks[0] == looks[1] and two.leaderboard["winners"] == one.leaderboard["winners"]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("killed_in", [(1,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_a_killed_study_resumes_to_the_same_leaderboard(
    killed_in: tuple[int, ...], two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Killed in the middle of these of its two trials, and carried out to the end by another process."""
    spec = asked(two_splits, strategies=("partial:1",), settings={**SETTINGS, "epochs": 40})
    calm = weighed(tmp_path / "calm", WAYS[1:2])
    begin(calm, spec)
    expected = study(calm, plugins=plugins)
    folder = weighed(tmp_path / "killed", WAYS[1:2])
    begin(folder, spec)
    found_at = []
    for one in (expected.outcomes[number] for number in killed_in):
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo_cli.main", "study", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        history = folder / "trials" / one.name / "history.jsonl"
        while not (history.is_file() and history.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        with FileLock(history.parent / ".lock", timeout=60):  # its worker is dead a moment later
            found_at.append(Run.open(history.parent).status)
    assert "running" in found_at  # on a machine that is busy one of them may have come to its end
    found = study(folder, plugins=plugins)
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 2  # no trial ran twice
    assert table(found) == table(expected)
    for one in expected.outcomes:
        ours, theirs = (Run.open(base / "trials" / one.name).predictions() for base in (folder, calm))
        assert (ours.logits == theirs.logits).all()


def table(results: Results) -> list[dict[str, Any]]:
    """The leaderboard but for seconds, which differ from time to time."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "core_seconds")}
        for row in results.leaderboard["rows"]
    ]


def test_a_killed_study_has_a_leaderboard_of_its_finished_trials(
    done: Results, plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its leaderboard is of the trials that are finished, without another session."""
    folder = tmp_path / "s"
    shutil.copytree(done.path, folder)
    (folder / "leaderboard.json").unlink()
    lines = (folder / "outcomes.jsonl").read_text().splitlines(keepends=True)
    (folder / "outcomes.jsonl").write_text("".join(line for line in lines if "refused" not in line))
    assert {row["way"] for row in Results.open(folder).leaderboard["rows"]} == set(WAYS[:2])
    assert run_zoo(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "2 of 6 trials have no result yet" in page and page.count("But `val` has 4 photographs, too few") == 1


def test_nothing_finished_is_a_failure(two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = weighed(tmp_path / "s", WAYS[:2])
    begin(folder, asked(two_splits, max_latency=1e-6))
    assert run_zoo(["study", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "Error: no trial of" in captured.err and "`--retry`" in captured.err
    assert "latency 10.0 ms, over 0.001 ms" in captured.err


def test_a_time_budget_ends_the_study_cleanly(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:2])
    begin(folder, asked(two_splits, seeds=(0,)))
    found = study(folder, time_budget=1e-6, plugins=plugins)
    assert found.status == "out of time" and found.outcomes == ()
    with pytest.raises(ZooError, match="no trial is finished"):
        _ = found.leaderboard


def test_photographs_that_are_in_two_splits(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(two_splits, data)
    shutil.copy(data / "train/red/003.jpg", data / "val/red/other.jpg")
    with pytest.raises(
        ZooError,
        match=r"`test` overlaps another: (.*\n)* +`train/red/003.jpg` \((train|val)\) = `val/red/other.jpg` \(test\)",
    ):
        study(asked(data), out=tmp_path / "s", plugins=plugins)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("in_this_process")
def test_fractions_have_leaderboards_of_their_own(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:1])
    begin(folder, asked(two_splits, strategies=("full",), fractions=(0.4, 1.0), seeds=(0,), test=False))
    found = study(folder, plugins=plugins)
    assert set(found.leaderboard["fractions"]) == {"0.4", "1"}
    sizes = {one.trial.fraction: len(found.run(one).splits()["roles"]["fit"]) for one in found.outcomes}
    assert sizes == {1.0: 20, 0.4: 8}


@pytest.mark.usefixtures("in_this_process")
def test_a_fraction_with_many_digits(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:1])
    fractions = (1 / 3, 0.333333)
    begin(folder, asked(two_splits, strategies=("full",), fractions=fractions, seeds=(0,), test=False))
    found = study(folder, plugins=plugins)
    assert sorted(map(float, found.leaderboard["fractions"])) == sorted(fractions)
    assert len({one.name for one in found.outcomes}) == 2 == len(list((folder / "trials").iterdir()))
    assert run_zoo(["report", str(folder)]) == 0


@pytest.mark.usefixtures("in_this_process")
def test_a_study_of_an_earlier_version_is_opened_and_goes_on(done: Results, plugins: Plugins, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    shutil.copytree(done.path, folder)
    lines = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    for line, one in zip(lines, done.outcomes):
        line["name"] = one.trial.old_name
        if one.finished:
            (folder / "trials" / one.name).rename(folder / "trials" / one.trial.old_name)
    killed = next(index for index, one in enumerate(done.outcomes) if one.finished)
    left = [line for index, line in enumerate(lines) if index != killed]  # killed before the line was written
    (folder / "outcomes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in left))
    assert Results.open(folder).leaderboard["rows"]
    before = {file: file.stat().st_mtime for file in folder.glob("trials/*/model.safetensors")}
    again = study(folder, plugins=plugins)
    assert {file: file.stat().st_mtime for file in folder.glob("trials/*/model.safetensors")} == before
    assert {one.name for one in again.outcomes} == {line["name"] for line in lines}
    accuracies = [{row["way"]: row["accuracy"] for row in one.leaderboard["rows"]} for one in (again, done)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.usefixtures("in_this_process")
def test_damaged_files_are_named_or_made_anew(
    done: Results, plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "s"
    shutil.copytree(done.path, folder)
    (folder / "leaderboard.json").write_text("[]")  # it is written, and read by nobody
    assert run_zoo(["study", str(folder), "--status"]) == 0 and run_zoo(["report", str(folder)]) == 0
    capsys.readouterr()
    (folder / "advice.json").write_text("[1]")
    assert run_zoo(["report", str(folder)]) == 1 and "advice.json` is damaged" in capsys.readouterr().err
    with (folder / "outcomes.jsonl").open("a") as file:
        file.write('junk\n{"a": 1}\n')
    assert Results.open(folder).outcomes == done.outcomes
    finished = [one for one in done.outcomes if one.state == "finished"]
    (folder / "trials" / finished[0].name / "run.json").write_text("{")
    shutil.rmtree(folder / "trials" / finished[1].name)
    (folder / "trials" / finished[2].name / "predictions-val.safetensors").write_bytes(b"damaged")
    assert run_zoo(["study", str(folder), "--status"]) == 0
    assert f"`zoo study {folder}` trains it again" in capsys.readouterr().err
    again = study(folder, plugins=plugins)
    assert table(again) == table(done)
    assert len(again.looks()) == len(done.looks()) + 3  # the three are other runs, and were looked at
    (folder / "study.json").write_text("{")
    assert run_zoo(["study", str(folder)]) == 1 and "cannot be read as JSON" in capsys.readouterr().err


def test_two_sessions_cannot_share_a_folder(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:2])
    begin(folder, asked(two_splits))
    with FileLock(folder / ".lock"), pytest.raises(ZooError, match="another process is carrying out"):
        study(folder, plugins=plugins)


@pytest.mark.usefixtures("in_this_process")
def test_a_full_disk_stops_the_study_and_is_no_outcome(two_splits: Path, plugins: Plugins, tmp_path: Path) -> None:
    folder = weighed(tmp_path / "s", WAYS[:1])
    begin(folder, asked(two_splits, strategies=("full",), seeds=(0,), test=False))

    def full(self: InThisProcess, do: str, *args: Any, **request: Any) -> dict[str, Any]:
        raise WorkerFailed("`model.safetensors` cannot be written: No space left on device", kind=DiskFull)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZooError, match="No space left") as error:
        patch.setattr(InThisProcess, "ask", full)
        study(folder, plugins=plugins)
    assert f"`zoo study {folder}`" in str(error.value.hint)
    assert [one.state for one in study(folder, plugins=plugins).outcomes] == ["finished"]


def test_the_search_uses_val_and_resumes(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    import optuna

    from zoo.studies.hyperparameter_search import search

    spec = asked(two_splits, strategies=("full",))
    experiment = spec.experiment(spec.trials(plugins)[0])
    found = search(replace(experiment, epochs=None), [], 2, tmp_path, None, plugins)
    assert found["tried"] == 2 and set(found["settings"]) == {"lr", "weight_decay", "augment", "epochs"}
    (runs,) = (tmp_path / "search").iterdir()
    assert {file.name for file in (runs / "0").iterdir()} <= {"run.json", "history.jsonl", ".lock"}  # no weights
    again = search(replace(experiment, epochs=None), [], 2, tmp_path, None, plugins)
    assert again["settings"] == found["settings"]  # nothing is tried twice
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'search.db'}")
    kept = optuna.load_study(study_name=names[0], storage=f"sqlite:///{tmp_path / 'search.db'}")
    assert len(kept.trials) == 2 and kept.trials[0].params["lr"] == pytest.approx(5e-3)  # the defaults come first
    stale = kept.ask()  # as a session leaves it that is killed in the middle
    wanted = stale.suggest_float("lr", 5e-4, 5e-2, log=True)
    assert search(replace(experiment, epochs=None), [], 3, tmp_path, None, plugins)["tried"] == 3
    assert len(kept.trials) == 3 and kept.trials[2].params["lr"] == wanted and kept.trials[2].state.is_finished()
    solved = search(replace(experiment, strategy="linear", epochs=None), ["norm"], 2, tmp_path, None, plugins)
    assert solved["settings"] is None and "solved" in solved["note"]
    (tmp_path / "fixed").mkdir()
    fixed = search(experiment, ["epochs", "lr"], 1, tmp_path / "fixed", None, plugins)
    assert set(fixed["settings"]) == {"weight_decay", "augment"}  # what was given stays
    all_given = ["epochs", "lr", "augment", "weight_decay"]
    assert search(experiment, all_given, 1, tmp_path, None, plugins)["settings"] is None
    (tmp_path / "search.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ZooError, match=r"search\.db` cannot be used"):
        search(replace(experiment, epochs=None), [], 3, tmp_path, None, plugins)


def test_the_search_tries_each_setting_of_a_solved_head_once(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.studies.hyperparameter_search import search

    spec = asked(two_splits, strategies=("knn",), settings={"image_size": 32, "weights": "none"})
    trial = spec.trials(plugins)[0]
    experiment = spec.experiment(trial)
    tried: list[tuple[str, str | None]] = []

    def scored(one: Experiment, **more: Any) -> Any:
        tried.append((one.strategy, one.norm))
        return SimpleNamespace(metrics={"loss": 0.5 if (one.strategy, one.norm) == ("knn:3", "recalibrate") else 1.0})

    monkeypatch.setattr("zoo.training.entry.train", scored)
    first = search(experiment, [], 5, tmp_path, None, plugins)
    assert first["tried"] == 5 and tried[0] == ("knn", "frozen")  # the defaults come first
    found = search(experiment, [], 99, tmp_path, None, plugins)
    assert len(tried) == len(set(tried)) == found["tried"] == 12 and found["pruned"] == 0
    assert found["settings"] == {"norm": "recalibrate", "strategy": "knn:3"}
    tuned = spec.experiment(trial, found["settings"])
    assert (tuned.strategy, tuned.norm, tuned.seed) == ("knn:3", "recalibrate", trial.seed)
    (tmp_path / "given").mkdir()
    given = search(replace(experiment, strategy="knn:7,norm=frozen"), [], 5, tmp_path / "given", None, plugins)
    assert given["settings"] is None and "given" in given["note"]


@pytest.mark.usefixtures("in_this_process")
def test_trials_use_the_settings_of_the_search(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    folder = weighed(tmp_path / "s", WAYS[:1])
    begin(folder, asked(two_splits, strategies=("full",), seeds=(0,), search=2))
    found = study(folder, plugins=plugins)
    (outcome,) = found.outcomes
    assert outcome.tuned is not None and set(outcome.tuned) == {"lr", "weight_decay", "augment"}  # epochs were given
    experiment = found.run(outcome).experiment
    assert {name: getattr(experiment, name) for name in outcome.tuned} == outcome.tuned and experiment.epochs == 1
    assert any("searched by the loss on `val`" in note for note in found.leaderboard["notes"])


def test_options_are_the_study(monkeypatch: pytest.MonkeyPatch, done: Results) -> None:
    import zoo.studies.runner

    asked: list[Any] = []

    def catch(spec: Any, **more: Any) -> Results:
        asked.append((spec, more["out"], more["retry"], more["time_budget"]))
        return done

    monkeypatch.setattr(zoo.studies.runner, "study", catch)
    arguments = [
        "study",
        "--data",
        "photos",
        "--backbone",
        "a",
        "--backbone",
        "b",
        "--strategy",
        "full",
        "--also",
        "c",
        "knn",
    ]
    arguments += ["--seed", "3", "--fraction", "0.1", "--fraction", "1", "--max-latency", "20ms", "--max-size", "1.5M"]
    arguments += ["--license", "apache*", "--search", "4", "--time-budget", "30m", "--no-test", "--epochs", "3"]
    arguments += ["--image-size", "64", "--device", "cpu", "--out", "there"]
    assert run_zoo(arguments) == 0
    spec = Study(
        data="photos", backbones=("a", "b"), strategies=("full",), also=(("c", "knn"),), seeds=(3,),
        fractions=(0.1, 1.0), max_latency=0.02, max_size=1_500_000, licenses=("apache*",), search=4,
        time_budget=1800.0, test=False, settings={"epochs": 3, "image_size": 64, "device": "cpu"},
    )  # fmt: skip
    assert asked == [(spec, "there", False, 1800.0)]
    assert run_zoo(["study", "--data", "photos", "--backbone", "a", "--strategy", "full"]) == 0
    assert asked[1][0] == Study(data="photos", backbones=("a",), strategies=("full",))  # no default is a setting


def test_the_command(done: Results, capsys: pytest.CaptureFixture[str], two_splits: Path, tmp_path: Path) -> None:
    assert run_zoo(["study", str(done.path), "--status"]) == 0
    captured = capsys.readouterr()
    assert "4 photographs, too few" in " ".join(captured.err.split())
    assert "4 finished" in captured.err and "2 not trained" in captured.err and captured.out.strip() == str(done.path)
    assert run_zoo(["study", str(done.path), "--status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaderboard"]["winners"] == done.winners
    for arguments, message in (
        (["--status"], "`--status`"),
        ([str(done.path), "--epochs", "3"], "`--epochs`"),
        ([str(done.path), "--backbone", "resnet18"], "`--backbone`"),
        ([str(done.path), "--out", "elsewhere"], "`--out`"),
        ([str(tmp_path)], "is not a study"),
        ([str(tmp_path / "none.toml")], "there is no study"),
        (["--backbone", "resnet18"], "missing option `--data`"),
        (["--data", str(two_splits), "--backbone", "resnet18"], "needs a backbone and a strategy"),
        (
            ["--data", str(two_splits), "--backbone", "resnet18", "--strategy", "full", "--max-latency", "5"],
            "`--max-latency`",
        ),
    ):
        assert run_zoo(["study", *arguments]) == 2
        assert message in capsys.readouterr().err
