"""A study whose machines share a store and no folder: one finished run for each trial, with the bits of a local one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remote_study import SETTINGS, Engine, asked, weighed, work_in_process
from s3_server import BUCKET, SECRET, Store, running

from zoo import Plugins, Results, Study, UsageError, ZooError, study, train
from zoo.errors import DiskFull
from zoo.runs.run import Run
from zoo.storage import object_store
from zoo.storage.object_store import Folder, ObjectStore, StoreError, hold, open_store
from zoo.studies import study_store
from zoo.studies.places import executor_on
from zoo.studies.remote_trial import carry_out
from zoo.studies.study_store import StoreSession
from zoo.studies.trial import TrialResult, TrialState
from zoo.studies.trial_worker import TrialWorker

BEAT = 0.05


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, plugins: Plugins, tmp_path: Path) -> None:
    work_in_process(monkeypatch, plugins)
    monkeypatch.setattr(study_store, "cache_folder", lambda: tmp_path / "worker")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    monkeypatch.setattr(object_store, "S3_TRIES", 1)
    with running(monkeypatch, tmp_path) as store:
        yield store


def engine(plugins: Plugins, address: Path | str, **changes: Any) -> Engine:
    made = Engine(plugins, **changes)
    made.store = StoreSession(str(address), beat=BEAT)
    return made


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    before = TrialWorker.train

    def count(self: TrialWorker, experiment: dict[str, Any], folder: str) -> dict[str, Any]:
        found.append(folder)
        return before(self, experiment, folder)

    monkeypatch.setattr(TrialWorker, "train", count)
    return found


def test_runs_through_s3_have_the_bits_of_local_ones_and_name_no_place_of_the_worker(
    s3: Store, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    ids = tmp_path / "exclude.csv"
    first = min((two_splits / "train").rglob("*.*"))
    ids.write_text(f"id\n{first.relative_to(two_splits).as_posix()}\n")
    spec = asked(two_splits, (0, 1))
    spec = replace(spec, settings={**SETTINGS, "exclude": str(ids)})
    local = [
        train(spec.experiment(trial), out=tmp_path / f"local-{trial.seed}", plugins=plugins)
        for trial in spec.trials(plugins)
    ]
    folder = weighed(tmp_path / "s", spec)
    found = study(folder, executor=engine(plugins, f"s3://{BUCKET}/one"), plugins=plugins)
    assert [one.metrics for one in found.outcomes] == [run.metrics for run in local]
    for one, run in zip(found.outcomes, local, strict=True):
        remote = found.run(one)
        assert (remote.predictions().logits == run.predictions().logits).all()
        assert (remote.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    assert not list((tmp_path / "worker").rglob("run.json"))
    written = [file for file in folder.rglob("*") if file.is_file()]
    contents = {str(file): file.read_bytes() for file in written} | dict(s3.objects)
    told = (str(tmp_path / "worker").encode(), SECRET.encode())
    assert not [(name, secret) for name, content in contents.items() for secret in told if secret in content]
    assert json.loads(s3.objects["one/session.json"])["session"] is None
    assert sum(name.endswith("finished.json") for name in s3.objects) == 2


def test_a_run_whose_answer_or_session_was_lost_is_fetched_and_not_repeated(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    spec = asked(two_splits)
    first = engine(plugins, tmp_path / "store")
    first.lose = True
    folder = weighed(tmp_path / "s", spec)
    assert study(folder, executor=first, plugins=plugins).outcomes[0].finished
    late = carry_out(first.asked[0])  # as a job that waited in a queue while its session was killed
    assert "sees no or another session" in late["refused"]
    for file in ("outcomes.jsonl", "leaderboard.json", "leaderboard.csv"):
        (folder / file).unlink()
    (folder / "trials" / spec.trials(plugins)[0].name).rename(tmp_path / "away")
    again = engine(plugins, tmp_path / "store")
    found = study(folder, executor=again, plugins=plugins)
    assert found.outcomes[0].finished and len(trained) == 1 and not again.asked
    with (tmp_path / "store" / "trials" / found.outcomes[0].name / "000001" / "history.jsonl").open("a") as stream:
        stream.write("x")
    (folder / "outcomes.jsonl").unlink()
    with pytest.raises(ZooError, match=r"`history.jsonl` of the run of .* is missing or damaged"):
        study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)


def test_a_run_that_cannot_be_put_is_kept_and_put_later(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    folder = weighed(tmp_path / "s", asked(two_splits))
    with monkeypatch.context() as patch:

        def full(self: Folder, name: str, file: Path) -> None:
            raise DiskFull("the store `/s` is full")

        def gone(self: Folder, name: str, file: Path) -> None:
            raise StoreError("the store `/s` cannot be written: host is down")

        patch.setattr(Folder, "upload", full)
        with pytest.raises(DiskFull, match=r"worker `.*`: the store `/s` is full"):
            study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)
        patch.setattr(Folder, "upload", gone)
        with pytest.raises(ZooError, match=r"^worker `.*`: the store `/s` cannot be written"):
            study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)
    assert not Results.open(folder).outcomes and not list((tmp_path / "store" / "trials").rglob("finished.json"))
    metrics = [json.loads(file.read_text())["id"] for file in (tmp_path / "worker").rglob("run.json")]
    found = study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)
    assert found.run(found.outcomes[0]).record["id"] == metrics[0] and len(trained) == 3
    assert Run.open(found.run(found.outcomes[0]).path).status == "finished"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": {"versions": {"torch": "1.0"}, "images": "", "count": 0}}, "`torch` .* instead of 1.0"),
        ({"session": "another"}, "sees no or another session in"),
        ({"store": "/nowhere/at-all"}, "sees no or another session in `/nowhere/at-all`"),
        ({"inputs": {"weights": {"sha256": "0" * 64, "name": "w.pth"}}}, "finds no `w.pth` in"),
    ],
)
def test_a_worker_that_differs_is_refused_by_name(
    changes: dict[str, Any], message: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    folder = weighed(tmp_path / "s", asked(two_splits))
    with pytest.raises(ZooError, match=rf"^worker `.+` .*{message}") as error:
        study(folder, executor=engine(plugins, tmp_path / "store", **changes), plugins=plugins)
    assert error.value.hint and "\n" not in error.value.message and not Results.open(folder).outcomes


def test_a_changed_image_on_the_worker_is_refused(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    data = tmp_path / "photos"
    shutil.copytree(two_splits, data)
    made = engine(plugins, tmp_path / "store")
    before = made.run_once

    def change(request: dict[str, Any]) -> dict[str, Any]:
        images = sorted((data / "train").rglob("*.*"))
        images[0].write_bytes(images[-1].read_bytes())
        return before(request)

    made.run_once = change  # type: ignore[method-assign]
    with pytest.raises(ZooError, match="sees other images"):
        study(weighed(tmp_path / "s", asked(data)), executor=made, plugins=plugins)


def test_a_second_session_is_refused_by_name_and_one_that_died_is_succeeded(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    store = open_store(str(tmp_path / "store"))
    folder = weighed(tmp_path / "s", asked(two_splits))
    with (
        hold(store, "session", {"host": "far-away", "process": 7, "time": "2040-01-01T00:00:00Z"}, BEAT),
        pytest.raises(ZooError, match="another session carries out this study, on `far-away`, as process 7"),
    ):
        study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)
    store.create("claims/session/000002.json", b'{"host": "killed"}')
    assert study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins).outcomes[0].finished
    other: Study = replace(asked(two_splits), seeds=(5,))
    with pytest.raises(UsageError, match="holds another study"):
        study(weighed(tmp_path / "other", other), executor=engine(plugins, tmp_path / "store"), plugins=plugins)


def test_a_worker_that_was_taken_for_dead_drops_its_run(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = asked(two_splits)
    name = spec.trials(plugins)[0].name
    before = TrialWorker.train

    def slow(self: TrialWorker, experiment: dict[str, Any], folder: str) -> dict[str, Any]:
        open_store(str(tmp_path / "store")).create(f"claims/{name}/000002.json", b"{}")
        return before(self, experiment, folder)

    monkeypatch.setattr(TrialWorker, "train", slow)
    with pytest.raises(ZooError, match="another one took over"):
        study(weighed(tmp_path / "s", spec), executor=engine(plugins, tmp_path / "store"), plugins=plugins)
    assert not (tmp_path / "store" / "trials" / name / "finished.json").exists()


def test_a_session_that_was_silent_does_not_end_the_one_that_took_over(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    folder = weighed(tmp_path / "s", asked(two_splits))
    first, second = (StoreSession(str(tmp_path / "store"), beat=BEAT) for _ in range(2))
    first.begin(folder)
    first.store.write("claims/session/000001.beat", b"over")  # as after it was silent
    token = second.begin(folder)
    first.end()
    assert json.loads((tmp_path / "store" / "session.json").read_text())["session"] == token
    second.end()
    assert json.loads((tmp_path / "store" / "session.json").read_text())["session"] is None


def test_a_study_that_comes_while_another_has_the_store_is_refused(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = StoreSession(str(tmp_path / "store"), beat=BEAT)
    before = hold

    def late(*given: Any) -> Any:  # the other one had it while this one waited
        mine.store.write("session.json", b'{"study": "another"}')
        return before(*given)

    monkeypatch.setattr("zoo.studies.study_store.hold", late)
    with pytest.raises(UsageError, match="holds another study"):
        mine.begin(weighed(tmp_path / "s", asked(two_splits)))
    mine.end()
    assert json.loads((tmp_path / "store" / "session.json").read_text()) == {"study": "another"}


@pytest.mark.parametrize(
    "change",
    [
        lambda marker: [],
        lambda marker: {},
        lambda marker: {**marker, "outcome": {"status": "finished"}},
        lambda marker: {**marker, "files": {"../../../outside": "0"}},
        lambda marker: {**marker, "files": {"/tmp/outside": "0"}},
    ],
)
def test_a_marker_that_is_damaged_is_told_and_nothing_is_written(
    change: Any, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = asked(two_splits)
    trial = spec.trials(plugins)[0]
    outcome = TrialResult(trial=trial, state=TrialState.FINISHED, name=trial.name).to_json()
    marker = change({"attempt": 1, "files": {}, "outcome": outcome})
    session = StoreSession(str(tmp_path / "store"), beat=BEAT)
    session.store.write(f"trials/{trial.name}/finished.json", json.dumps(marker).encode())
    folder = tmp_path / "s" / "trials" / trial.name
    folder.mkdir(parents=True)
    assert session.finished(trial.name)
    with pytest.raises(ZooError, match=r"`finished.json` of the run of .* is missing or damaged") as error:
        session.fetch(trial, folder)
    assert error.value.hint and list(folder.parent.iterdir()) == [folder]


def test_a_full_disk_of_the_session_or_of_a_worker_is_one_line(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    folder = weighed(tmp_path / "s", asked(two_splits))
    with monkeypatch.context() as patch:
        patch.setattr("zoo.studies.study_store.tempfile.mkdtemp", full)
        with pytest.raises(DiskFull, match=r"trials/.*` cannot be written"):
            study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setattr(study_store, "_inputs", full)
    with pytest.raises(DiskFull, match=r"^worker `.*` cannot use `file`: no space"):
        study(folder, executor=engine(plugins, tmp_path / "store"), plugins=plugins)


def test_a_store_that_cannot_be_written_is_told_before_latencies_are_measured(tmp_path: Path, plugins: Plugins) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        executor_on("slurm:cluster=local", store=str(tmp_path / "file"), plugins=plugins)


def test_a_trial_that_waited_for_another_while_its_session_ended_does_not_begin(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(plugins, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))

    def late(held: ObjectStore, name: str, *given: Any) -> Any:
        if name != "session":
            store.write("session.json", b"{}")
        return hold(held, name, *given)

    monkeypatch.setattr("zoo.studies.study_store.hold", late)
    trained = count_trainings(monkeypatch)
    with pytest.raises(ZooError, match="sees no or another session"):
        study(weighed(tmp_path / "s", asked(two_splits)), executor=made, plugins=plugins)
    assert not trained


def test_a_time_budget_makes_no_other_study_and_a_damaged_input_is_told(tmp_path: Path) -> None:
    asked_for = {"data": "digits", "time_budget": 5}
    assert study_store.study_digest(asked_for) == study_store.study_digest({**asked_for, "time_budget": None})
    assert study_store.study_digest(asked_for) != study_store.study_digest({**asked_for, "data": "photos"})
    store = open_store(str(tmp_path / "store"))
    store.write(f"inputs/{'0' * 64}", b"half of it")
    with pytest.raises(ZooError, match="or a damaged one"):
        study_store._inputs(store, {"weights": {"sha256": "0" * 64, "name": "w.pth"}}, tmp_path)
