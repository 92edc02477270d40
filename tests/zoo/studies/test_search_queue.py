"""Sessions that search together: exactly as many trials as asked for, each with one outcome, whoever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import search_worker

import zoo.studies.search_queue
from zoo.errors import StorageLost
from zoo.studies.search_queue import SearchQueue
from zoo.studies.search_storage import close_storage, open_storage
from zoo.studies.search_trial import BEAT, outcomes

optuna = pytest.importorskip("optuna")
State = optuna.trial.TrialState
NAME = "birds: net full"
COUNT = 8
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A server of PostgreSQL of its own, reached by a socket in a folder alone."""
    pytest.importorskip("psycopg")
    found = shutil.which("initdb")
    programs = Path(found).resolve().parent if found else BINARIES[-1] if BINARIES else None
    root = os.name == "posix" and os.getuid() == 0
    if programs is None or (root and shutil.which("runuser") is None):
        pytest.skip("there is no PostgreSQL")
    # of its own: pytest takes the rights of others from its folders, and PostgreSQL refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="zoo-pg-"))
    user = []
    if root:
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def call(program: str, *words: str) -> int:
        with (folder / "calls").open("ab") as log:
            command = [*user, str(programs / program), "-D", str(folder / "data"), *words]
            return subprocess.run(command, stdout=log, stderr=log, cwd="/").returncode

    try:
        if call("initdb", "-A", "trust", "-U", "zoo", "--no-sync"):
            pytest.skip("PostgreSQL makes no database here")
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        assert call("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start") == 0, (
            folder / "calls"
        ).read_text()
        yield f"postgresql://zoo@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def worker(storage: str, folder: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, search_worker.__file__, storage, str(folder), str(COUNT), what]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def check_one_kill(storage: str, folder: Path) -> None:
    """A worker is killed in the middle of a trial while another one works; the law holds at the end."""
    processes = [holding := worker(storage, folder, "hold")]
    try:
        assert holding.stdout is not None
        before = []
        while not (line := holding.stdout.readline()).startswith("holds"):
            assert line.startswith("told")
            before.append(int(line.split()[1]))
        held = int(line.split()[1])
        processes.append(other := worker(storage, folder, "other"))
        holding.send_signal(signal.SIGKILL)
        holding.wait()
        told, _ = other.communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    numbers = before + [int(one.split()[1]) for one in told.splitlines()]
    assert sorted(numbers) == list(range(COUNT)) and held in numbers
    opened = open_storage(storage)
    trials = optuna.load_study(study_name=NAME, storage=opened).trials
    close_storage(opened)
    assert len(trials) == COUNT and {trial.state for trial in trials} == {State.COMPLETE}
    assert trials[0].params == {"x": 0.5} and len({trial.params["x"] for trial in trials}) == COUNT


def test_one_kill_with_a_journal(tmp_path: Path) -> None:
    check_one_kill(str(tmp_path / "journal"), tmp_path / "runs")


def test_one_kill_with_postgresql(postgresql: str, tmp_path: Path) -> None:
    check_one_kill(postgresql, tmp_path / "runs")


def queue(storage: Path, folder: Path, **changes: Any) -> SearchQueue:
    values: dict[str, Any] = {
        "folder": folder,
        "identity": {"search": 3, "lr": 0.1},
        "first": [{"x": 0.5}],
        "count": 3,
        "pruner": optuna.pruners.NopPruner(),
        "sampler": lambda number: optuna.samplers.RandomSampler(seed=number),
        "session": "",
        "grace": 0.1,
    }
    return SearchQueue(f"sqlite:///{storage}", NAME, **{**values, **changes})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.studies.search_queue, "SETTLE", 0.0)
    monkeypatch.setattr(zoo.studies.search_queue, "PATIENCE", 0.0)


@pytest.mark.usefixtures("quick")
def test_a_trial_without_a_sign_of_life_is_taken_over(tmp_path: Path) -> None:
    """By a session with another folder; the first one, which was only asleep, then tells nothing."""
    one, other = (queue(tmp_path / "db", tmp_path / name) for name in ("a", "b"))
    asleep = one.claim()
    assert asleep is not None and asleep.number == 0
    taken: dict[int, Any] = {}
    while len(taken) < 3:
        claim = other.claim()
        if claim is not None:
            taken[claim.number] = claim
    assert taken[0].sample(lambda trial: trial.suggest_float("x", 0, 1)) == 0.5  # with the settings that it had
    assert not asleep.tell(State.COMPLETE, 9.0) and taken[0].tell(State.COMPLETE, 1.0)
    assert not asleep.tell(State.COMPLETE, 9.0) and other.claim() is None
    assert [(one.number, one.loss) for one in other.table()] == [(0, 1.0)] and len(other._trials()) == 3


@pytest.mark.usefixtures("quick")
def test_a_sign_of_life_keeps_a_trial(tmp_path: Path) -> None:
    one, other = (queue(tmp_path / "db", tmp_path / name, grace=1.0) for name in ("a", "b"))
    claim = one.claim()
    assert claim is not None and [found and found.number for found in (other.claim(), other.claim())] == [1, 2]

    def later() -> Any:
        """What the other one claims when it looks again after its grace period."""
        other._seen = {number: (sign, since - 10) for number, (sign, since) in other._seen.items()}
        return other.claim()

    for number in range(3):
        one._set(claim.trial._trial_id, BEAT, number)
        assert later() is None
    with claim:  # its thread gives one
        while one._trials()[0].user_attrs[BEAT] == 2:
            pass
        assert later() is None and claim.tell(State.PRUNED) and not claim._lost


@pytest.mark.usefixtures("quick")
def test_sessions_that_share_a_folder_need_no_grace(tmp_path: Path) -> None:
    one, other = (queue(tmp_path / "db", tmp_path / "a", session=name, grace=1000.0) for name in ("a", "b"))
    claim = one.claim()
    assert claim is not None
    seen = [other.claim(), other.claim(), other.claim()]
    assert [found and found.number for found in seen] == [1, 2, None]
    claim._lock.release()  # as the system does for a process that is killed
    again = other.claim()
    assert again is not None and again.number == 0 and again.deaths == 0
    again._lock.release()
    once_more = other.claim()
    assert once_more is not None and once_more.deaths == 1  # the session lives, and its process died in the trial


@pytest.mark.usefixtures("quick")
def test_another_search_of_the_same_name_is_refused(tmp_path: Path) -> None:
    queue(tmp_path / "db", tmp_path / "a")
    with pytest.raises(StorageLost, match=r"holds another search `birds: net full`, which differs in `images`, `lr`"):
        queue(tmp_path / "db", tmp_path / "b", identity={"search": 3, "lr": 0.2, "images": "x"})


@pytest.mark.usefixtures("quick")
def test_a_session_that_is_killed_while_it_makes_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.studies.search_queue, "FILL_SECONDS", 0.1)
    queue(tmp_path / "db", tmp_path / "a", count=1)
    found = queue(tmp_path / "db", tmp_path / "b")
    assert len(found._trials()) == 3
    storage = found._storage
    storage.create_new_trial(found._id, template_trial=optuna.create_trial(state=State.WAITING))  # two of them made it
    again = queue(tmp_path / "db", tmp_path / "c")
    claims = [again.claim() for _ in range(4)]
    assert [claim and claim.number for claim in claims] == [0, 1, 2, None]
    assert again._trials()[3].state is State.FAIL and again.table() == ()


@pytest.mark.usefixtures("quick")
def test_a_storage_that_goes_away_prunes_nothing_and_is_told_later(tmp_path: Path) -> None:
    found = queue(tmp_path / "db", tmp_path / "a")
    claim = found.claim()
    assert claim is not None
    kept = (tmp_path / "db").read_bytes()
    (tmp_path / "db").write_bytes(b"not a database" * 100)
    found._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    assert claim.should_prune(1, 0.7) is False
    with pytest.raises(StorageLost, match="cannot be used"):
        claim.tell(State.COMPLETE, 0.5)
    (tmp_path / "db").write_bytes(kept)
    found._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    claim.should_prune(2, 0.6)
    assert claim.tell(State.COMPLETE, 0.5)
    assert found._trials()[0].intermediate_values == {1: 0.7, 2: 0.6}


def test_outcomes_have_types() -> None:
    def trial(number: int, state: Any, value: float | None = None, **more: Any) -> Any:
        made = optuna.create_trial(state=state, value=value, **more)
        made.number = number
        return made

    table = outcomes(
        [
            trial(0, State.COMPLETE, 0.5),
            trial(1, State.PRUNED, intermediate_values={1: 0.9, 2: 0.1}),
            trial(2, State.PRUNED, user_attrs={"failure": "training diverged"}),
            trial(3, State.FAIL, user_attrs={"failure": "its process died"}),
            trial(4, State.RUNNING),
            trial(5, State.COMPLETE, 0.4, user_attrs={"instead_of": 3}),
            trial(6, State.COMPLETE, 0.1),
        ],
        count=5,
    )
    assert [(one.number, str(one.state), one.loss) for one in table] == [
        (0, "finished", 0.5), (1, "pruned", 0.1), (2, "failed", None), (3, "finished", 0.4),
    ]  # fmt: skip
    assert table[1].failure == "other settings were ahead after 2 epochs" and table[2].failure == "training diverged"
