"""Trials on other machines: an engine is asked to run a function, and the trial's folder is the truth about it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from remote_study import SETTINGS, Engine, asked, weighed, work_in_process

from zoo import Experiment, Plugins, Results, UsageError, ZooError, study, train
from zoo.errors import DiskFull
from zoo.runs.run import Run
from zoo.studies import running, slurm_executor
from zoo.studies.machine_state import MachineStates, machine_state
from zoo.studies.places import executor_on
from zoo.studies.ray_executor import RayExecutor
from zoo.studies.remote_executor import RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out, versions_difference
from zoo.studies.trial import TrialState
from zoo_cli.main import run as run_zoo


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    work_in_process(monkeypatch, plugins)


@pytest.mark.usefixtures("in_process")
def test_a_trial_whose_answer_is_lost_is_read_from_its_folder_and_equals_a_local_one(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = asked(two_splits)
    trial = spec.trials(plugins)[0]
    local = train(spec.experiment(trial), out=tmp_path / "local", plugins=plugins)
    engine = Engine(plugins)
    engine.lose = True
    found = study(weighed(tmp_path / "remote", spec), executor=engine, plugins=plugins).outcomes
    assert [one.finished for one in found] == [True] and found[0].metrics == local.metrics
    remote = Run.open(tmp_path / "remote" / "trials" / trial.name).predictions()
    assert (local.predictions().logits == remote.logits).all()
    assert not (tmp_path / "remote" / "running" / "session.json").exists()  # nothing begins after the session
    late = carry_out(engine.asked[0])  # as a job that waited in a queue while its session was killed
    assert "no or another session" in late["refused"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": {"versions": {"torch": "1.0"}, "images": "", "count": 0}}, "`torch` .* instead of 1.0"),
        ({"study": "/nowhere/at-all"}, "does not see the study's folder `/nowhere/at-all`"),
        ({"session": "another"}, "no or another session"),
    ],
)
def test_a_worker_that_differs_is_refused_by_name_and_no_outcome(
    changes: dict[str, Any], message: str, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:  # fmt: skip
    folder = weighed(tmp_path / "s", asked(two_splits))
    with pytest.raises(ZooError, match=rf"^worker `.+` .*{message}") as error:
        study(folder, executor=Engine(plugins, **changes), plugins=plugins)
    assert error.value.hint and "\n" not in error.value.message
    assert not Results.open(folder).outcomes and not list((folder / "trials").iterdir())


def test_other_images_are_noticed(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    data = tmp_path / "photos"
    shutil.copytree(two_splits, data)
    experiment = Experiment(data=str(data), backbone="timm/test_resnet", strategy="partial:1", **SETTINGS)  # type: ignore[arg-type]
    machine_state = MachineStates().of  # as a worker's process asks, for trial after trial
    before = machine_state(experiment, plugins)
    assert machine_state(experiment, plugins) == before and before["versions"]["plugin datasets"]
    image = sorted(data.rglob("*.*"))[0]
    content, times = image.read_bytes(), image.stat()
    image.write_bytes(sorted(data.rglob("*.*"))[-1].read_bytes())
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert machine_state(experiment, plugins)["images"] != before["images"]
    image.write_bytes(content)
    assert machine_state(experiment, plugins) == before
    image.rename(image.with_stem("other"))
    assert machine_state(experiment, plugins)["images"] != before["images"]


def test_a_trial_is_held_by_one_and_shown_while_it_runs(tmp_path: Path) -> None:
    token = running.begin_session(tmp_path)
    order: list[str] = []

    def second() -> None:
        with running.hold_trial(tmp_path, "t", token):
            order.append("second")

    thread = threading.Thread(target=second)
    with running.hold_trial(tmp_path, "t", token):
        assert running.running_trials(tmp_path)["t"]["process"] == os.getpid()
        thread.start()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"] and running.running_trials(tmp_path) == {}
    (tmp_path / "running" / "t.json").write_text('{"host": "gone"}')  # left by a process that was killed
    assert running.running_trials(tmp_path) == {}


@pytest.mark.usefixtures("in_process")
def test_a_local_session_waits_for_a_trial_that_a_worker_of_a_killed_session_trains(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = asked(two_splits, seeds=(0, 1))
    folder = weighed(tmp_path / "s", spec)
    token, held, waited = running.begin_session(folder), threading.Event(), threading.Event()
    first, second = (trial.name for trial in spec.trials(plugins))

    def worker() -> None:
        with running.hold_trial(folder, first, token):
            held.set()
            until = time.monotonic() + 60
            while not (folder / "outcomes.jsonl").exists() and time.monotonic() < until:
                time.sleep(0.05)  # the local session trains the other one meanwhile
            time.sleep(0.3)
            if not (folder / "trials" / first).exists():
                waited.set()

    thread = threading.Thread(target=worker)
    thread.start()
    assert held.wait(30)
    found = study(folder, plugins=plugins).outcomes
    thread.join(timeout=60)
    assert [one.name for one in found] == [second, first] and all(one.finished for one in found) and waited.is_set()
    assert not (folder / "running" / "session.json").exists()  # nothing of the killed session begins
    begun = time.monotonic()
    with running.hold_trial(folder, "t", running.begin_session(folder)):
        running.wait_for_trial(folder, "t", begun + 0.3)  # no longer than the time budget
    assert 0.3 <= time.monotonic() - begun < 30


def test_a_trial_that_waited_while_its_session_ended_does_not_begin(tmp_path: Path) -> None:
    token, refused = running.begin_session(tmp_path), list[str]()

    def second() -> None:
        try:
            with running.hold_trial(tmp_path, "t", token):
                refused.append("it began")
        except ZooError as error:
            refused.append(error.message)

    with running.hold_trial(tmp_path, "t", token):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        running.begin_session(tmp_path)
    thread.join(timeout=30)
    assert len(refused) == 1 and "no or another session" in refused[0]


@pytest.mark.usefixtures("in_process")
def test_as_many_other_images_are_refused(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    spec = asked(two_splits)
    state = machine_state(spec.experiment(spec.trials(plugins)[0]), plugins)
    engine = Engine(plugins, state={**state, "images": "others"})
    with pytest.raises(ZooError, match="sees other images"):
        study(weighed(tmp_path / "s", spec), executor=engine, plugins=plugins)


def test_versions_are_named() -> None:
    assert versions_difference({"torch": "2.9", "a": "1"}, {"torch": "2.8", "a": "1", "plugin x": "x 1"}) == (
        "`plugin x` x 1 instead of none, `torch` 2.8 instead of 2.9"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "dask"], "`--on dask` names no place"),
        (["--on", "ray://"], "has no address"),
        (["--on", "slurm:partition"], "is not `OPTION=VALUE`"),
        (["--on", "slurm:minute=5"], "unknown option `minute`"),
        (["--on", "slurm:minutes=x"], "`minutes=x` is not"),
        (["--on", "slurm", "--gpus-per-trial", "nan"], "nan GPUs"),
        (["--on", "slurm", "--gpus-per-trial", "0.5"], "cannot have 0.5 GPUs"),
        (["--gpus-per-trial", "1"], "apply with `--on` only"),
        (["--store", "/shared"], "apply with `--on` only"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str, two_splits: Path, capsys: Any) -> None:
    data = ["--data", str(two_splits), "--backbone", "timm/test_resnet", "--strategy", "full"]
    assert run_zoo(["study", *data, *words]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_a_full_disk_of_a_worker_stops_the_study(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    engine = Engine(plugins)
    engine.run_once = lambda request: {"full": "worker `b`: no room", "hint": "make room"}  # type: ignore[method-assign]
    folder = weighed(tmp_path / "s", asked(two_splits))
    with pytest.raises(DiskFull, match="worker `b`: no room"):
        study(folder, executor=engine, plugins=plugins)
    assert not Results.open(folder).outcomes


@pytest.mark.parametrize(("module", "place"), [("submitit", "slurm:cluster=local"), ("ray", "ray")])
def test_a_killed_trial_is_one_failed_outcome_and_retry_finishes_it(
    module: str, place: str, two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):  # which Ray and zoo set
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folder = weighed(tmp_path / "s", asked(two_splits))
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            for note in running.running_trials(folder).values():
                os.kill(note["process"], signal.SIGKILL)
                killed.append(note["process"])
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcomes = study(folder, executor=executor_on(place, jobs=1, plugins=plugins), plugins=plugins).outcomes
    finally:
        killer.join()
    assert [one.state for one in outcomes] == [TrialState.FAILED] and "--retry" in (outcomes[0].hint or "")
    again = study(folder, retry=True, executor=executor_on(place, jobs=1, plugins=plugins), plugins=plugins)
    assert [one.finished for one in again.outcomes] == [True]
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / ".ray").exists()  # a token, which every later Ray on this machine would take up


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder first on PATH for stand-ins of Slurm's commands; Slurm is asked as often as the test looks."""
    monkeypatch.setattr(slurm_executor, "QUEUE_SECONDS", 0.0)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "squeue"


def says(command: Path, words: str) -> None:
    command.write_text(f"#!/bin/sh\n{words}\n")
    command.chmod(0o755)


def test_a_job_is_over_where_the_queue_says_so_and_accounting_is_not_asked(squeue: Path) -> None:
    queue = slurm_executor.JobQueue()
    says(squeue, "echo 7 PENDING; echo 8 FAILED; echo 9 SUSPENDED")
    assert [queue.holds(job) for job in ("7", "8", "9", "10")] == [True, False, True, False]
    says(squeue, "exit 1")  # the controller is restarted
    assert queue.holds("7") and queue.holds("10")
    says(squeue.with_name("scontrol"), "echo JobId=8 JobName=zoo JobState=OUT_OF_MEMORY Reason=None")
    assert slurm_executor.job_state("8") == "OUT_OF_MEMORY"


def test_a_slurm_that_is_silent_for_long_is_one_line(squeue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(squeue, "echo slurm_load_jobs error >&2; exit 1")
    queue = slurm_executor.JobQueue()
    assert queue.holds("7")
    monkeypatch.setattr(slurm_executor, "SILENT_SECONDS", 0.0)
    with pytest.raises(ZooError, match="Slurm has not answered for 0 s: slurm_load_jobs error"):
        queue.holds("7")


def test_a_slurm_whose_controller_is_gone_is_told_before_anything(squeue: Path) -> None:
    pytest.importorskip("submitit")
    says(squeue.with_name("srun"), "exit 1")
    says(squeue, "echo 'slurm_load_jobs error: Unable to contact' >&2; echo controller >&2; exit 1")
    with pytest.raises(
        ZooError, match=r"^Slurm does not answer: slurm_load_jobs error: Unable to contact controller\n"
    ):
        executor_on("slurm")
    says(squeue, "exit 0")
    assert executor_on("slurm", jobs=3).slots == 3


def slurm_is_here() -> bool:
    try:
        return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=10, check=False).stdout != b""
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_job_of_slurm_is_one_failed_outcome_and_retry_finishes_it(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    pytest.importorskip("submitit")
    if not slurm_is_here():
        pytest.skip("there is no Slurm here")
    folder = weighed(tmp_path / "s", asked(two_splits, (0, 1)))
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            for note in running.running_trials(folder).values():
                os.kill(note["process"], signal.SIGKILL)
                killed.append(note["process"])
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = study(folder, executor=executor_on("slurm", jobs=1, plugins=plugins), plugins=plugins).outcomes
    finally:
        killer.join()
    assert sorted(str(one.state) for one in found) == ["failed", "finished"]
    assert next(one.failure for one in found if not one.finished).endswith("in state FAILED")
    again = study(folder, retry=True, executor=executor_on("slurm", plugins=plugins), plugins=plugins)
    assert all(one.finished for one in again.outcomes)


def test_a_cluster_that_is_not_there_is_told_before_anything(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ZooError, match="there is no cluster at `ray://127"):
        executor_on("ray://127.0.0.1:9")
    with pytest.raises(UsageError, match="is not an address"):
        executor_on("ray://head:port")


def test_images_are_read_once_by_a_worker_whose_files_stay(
    two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(data=str(two_splits), backbone="timm/test_resnet", strategy="partial:1", **SETTINGS)  # type: ignore[arg-type]
    states = MachineStates()
    first = states.of(experiment, plugins)
    monkeypatch.setattr("zoo.studies.machine_state.digests", lambda samples: pytest.fail("read again"))
    assert states.of(experiment, plugins) == first and first["count"] > 0


@pytest.mark.parametrize(
    ("finished", "free", "machines", "kind", "message"),
    [
        (True, 0.0, 1, TrialLost, "Ray has lost it"),  # its answer was, as of a machine that was cut off
        (False, 2.0, 1, TrialLost, "Ray has lost it"),  # nothing runs, and it does not begin
        (False, 0.0, 0, ZooError, "no machine of the cluster is left"),
    ],
)
def test_a_task_of_ray_that_gives_no_answer_is_not_waited_for_without_end(
    finished: bool, free: float, machines: int, kind: type[Exception], message: str, plugins: Plugins
) -> None:
    class Ray:
        exceptions = SimpleNamespace(GetTimeoutError=TimeoutError)

        def get(self, ref: object, timeout: float) -> None:
            raise TimeoutError

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": {"CPU": 2.0}}] * machines

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 2.0}

        def available_resources(self) -> dict[str, float]:
            return {"CPU": free}

    engine = RayExecutor.__new__(RayExecutor)
    RemoteExecutor.__init__(engine, plugins=plugins)
    engine._ray = Ray()
    engine.finished = lambda request: finished  # type: ignore[method-assign]
    with pytest.raises(kind, match=message):
        engine._wait(object(), {})
