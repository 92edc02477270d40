"""A Ray cluster of machines of its own, made of network namespaces: its token, a machine that dies, and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from network_namespaces import machines
from ray_cluster import TOKEN, Cluster, wait_until
from remote_study import SETTINGS, asked, weighed

from zoo import Plugins, Results, train
from zoo.runs.run import Run
from zoo.studies.running import running_trials
from zoo.studies.study import Study

pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # a cluster starts in ten seconds, and torch in each of its processes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = Path("/tmp") / f"zr{os.getpid()}"
    place.mkdir()
    with machines("head", "a", "b") as found:
        made = Cluster(place, found)
        made.start("head", 0)
        made.start("a", 1)
        made.start("b", 1)
        yield made
    subprocess.run(["rm", "-rf", str(place)], check=False)


def longer(data: Path, seeds: tuple[int, ...]) -> Study:
    return replace(asked(data, seeds), settings={**SETTINGS, "epochs": 30})


@pytest.mark.parametrize("token", [None, "another-token-than-that-of-the-cluster"])
def test_a_cluster_refuses_another_token_in_one_line(
    token: str | None, cluster: Cluster, two_splits: Path, tmp_path: Path
) -> None:
    folder = weighed(tmp_path / "s", asked(two_splits))
    session = cluster.session(folder, token=token)
    told, _ = session.communicate(timeout=60)
    assert session.returncode == 1 and "refuses the token, or wants one" in told, told
    assert "Traceback" not in told and (token is None or token not in told)


def test_machines_that_share_no_folder_exchange_runs_through_a_store(
    cluster: Cluster, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = longer(two_splits, (0, 1, 2))
    folder = weighed(cluster.hidden / "s", spec)
    told, _ = cluster.session(folder).communicate(timeout=120)
    assert "does not see the study's folder" in told and "Traceback" not in told
    words = ("--store", str(tmp_path / "store"))
    session = cluster.session(folder, *words)
    notes = tmp_path / "store" / "claims"
    wait_until(lambda: bool(list(notes.glob("timm*/000001.beat"))) or session.poll() is not None)
    name = next(file.parent.name for file in notes.glob("timm*/000001.beat"))
    os.kill(json.loads((notes / name / "000001.json").read_text())["process"], signal.SIGKILL)
    told, _ = session.communicate(timeout=180)
    outcomes = Results.open(folder).outcomes
    assert sorted(str(one.state) for one in outcomes) == ["failed", "finished", "finished"], told
    assert [one.name for one in outcomes if not one.finished] == [name]
    told, _ = cluster.session(folder, *words, "--retry").communicate(timeout=180)
    found = Results.open(folder)
    assert all(one.finished for one in found.outcomes) and "Traceback" not in told, told
    assert json.loads((tmp_path / "store" / "trials" / name / "finished.json").read_text())["attempt"] == 2
    for trial in spec.trials(plugins)[:2]:
        local = train(spec.experiment(trial), out=tmp_path / f"local-{trial.seed}", plugins=plugins)
        remote = Run.open(folder / "trials" / trial.name)
        assert (local.predictions().logits == remote.predictions().logits).all()


def test_a_machine_that_dies_costs_one_outcome_which_retry_continues(
    cluster: Cluster, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    spec = longer(two_splits, (0, 1, 2, 3))
    folder = weighed(tmp_path / "s", spec)
    session = cluster.session(folder)
    wait_until(lambda: cluster.running_on(folder, "a") or session.poll() is not None)
    cluster.machines["a"].kill()
    told, _ = session.communicate(timeout=180)
    assert session.returncode == 0, told
    states = [str(one.state) for one in Results.open(folder).outcomes]
    assert sorted(states) == ["failed", "finished", "finished", "finished"], told
    assert "its process or its machine is gone" in told and "Traceback" not in told
    told, _ = cluster.session(folder, "--retry").communicate(timeout=180)
    lines = [json.loads(line)["name"] for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and len(set(lines)) == 4, told
    trial = spec.trials(plugins)[3]
    local = train(spec.experiment(trial), out=tmp_path / "local", plugins=plugins)
    assert (local.predictions().logits == Run.open(folder / "trials" / trial.name).predictions().logits).all()
    written = [file for place in (folder, cluster.place) for file in place.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


def test_a_second_session_on_another_machine_is_refused_by_name_whatever_its_clock_says(
    cluster: Cluster, two_splits: Path, tmp_path: Path
) -> None:
    folder = weighed(tmp_path / "s", replace(asked(two_splits), settings={**SETTINGS, "epochs": 300}))
    words = [sys.executable, "-m", "zoo_cli.main", "study", str(folder)]
    first = cluster.machines["a"].start(words, tmp_path / "first.log")
    wait_until(lambda: bool(list(folder.glob("trials/*/history.jsonl"))) or first.poll() is not None)
    fake = ["faketime", "-f", "-1h"] if shutil.which("faketime") else []
    second = cluster.machines["b"].start([*fake, *words], tmp_path / "second.log")
    assert second.wait(timeout=60) == 1
    told = (tmp_path / "second.log").read_text()
    assert re.search(r"another process is carrying out the study in `.*`: process \d+ on `", " ".join(told.split())), (
        told
    )
    first.kill()


def test_a_cluster_that_goes_away_is_one_line_and_finished_trials_stay(
    cluster: Cluster, two_splits: Path, tmp_path: Path
) -> None:
    folder = weighed(tmp_path / "s", longer(two_splits, (0, 1, 2)))
    session = cluster.session(folder)
    wait_until(lambda: bool(Results.open(folder).outcomes) or session.poll() is not None)
    wait_until(lambda: bool(running_trials(folder)) or session.poll() is not None)
    cluster.machines["head"].kill()
    told, _ = session.communicate(timeout=120)
    assert session.returncode == 1 and "Traceback" not in told, told
    assert "Ray cannot carry out a trial" in told and "continues" in told, told
    outcomes = Results.open(folder).outcomes
    assert 1 <= len(outcomes) <= 2 and all(one.finished for one in outcomes), told
    told, _ = cluster.session(folder).communicate(timeout=60)
    assert "there is no cluster at" in told and "Traceback" not in told
