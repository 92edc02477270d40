"""Kills the trials, the machines and the sessions of a study: every trial must finish once, with the same bits.

    python benchmarks/study_places.py --on cluster --on slurm --on slurm:cluster=local --on ray
    python benchmarks/study_places.py --on cluster --store s3://bucket/study    # AWS_ENDPOINT_URL says where

A study is carried out undisturbed by one process, then at each place: processes of trials are killed by SIGKILL, and so
are the session, which `zoo study FOLDER` continues, and, on `cluster`, whole machines. `cluster` is a Ray cluster of
three network namespaces, which needs root; every second machine is not killed, but cut off for a minute. Trials that
were killed are continued by `--retry`. Updates `benchmarks/results/study_places.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from network_namespaces import machines
from ray_cluster import QUIET, TOKEN, Cluster

from zoo.runs.run import Run
from zoo.storage.files import json_text, read_json, read_lines
from zoo.studies.results import COSTS_FILE, OUTCOMES_FILE, Results
from zoo.studies.running import running_trials
from zoo.system.environment import machine, versions

OUT = Path(__file__).parent / "results" / "study_places.json"
SETTINGS = {
    "weights": "none",
    "image-size": "32",
    "batch-size": "64",
    "epochs": "1",
    "device": "cpu",
    "precision": "fp32",
}
STRATEGIES = ("full", "partial:1")
WAIT = 300.0
CUT = 60.0  # seconds for which a machine is cut off


class Place:
    """Where a study is carried out: its words of `zoo study`, and what can be done to it."""

    def __init__(self, words: list[str], environment: Mapping[str, str], cluster: Cluster | None = None) -> None:
        self.words, self.environment, self.cluster = words, environment, cluster
        self._turn = 0
        self._repairs: list[threading.Thread] = []

    def begin(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "zoo_cli.main", "study", *arguments, *self.words, "--threads", "1"]
        with log.open("ab") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **self.environment})

    def lose_machine(self) -> str:
        """Kill a machine or cut it off, and have it come back."""
        assert self.cluster is not None
        for repair in self._repairs:
            repair.join()  # the other one must be there
        name = "ab"[self._turn % 2]
        cut = self._turn % 4 >= 2
        self._turn += 1
        lost = self.cluster.machines[name]
        lost.cut() if cut else lost.kill()

        def repair() -> None:
            assert self.cluster is not None
            if cut:
                time.sleep(CUT)
                lost.kill()
                lost.mend()
            self.cluster.start(name, 1)

        self._repairs.append(threading.Thread(target=repair))
        self._repairs[-1].start()
        return f"{'cut off' if cut else 'killed'} machine {name}"

    def whole(self) -> None:
        for repair in self._repairs:
            repair.join()


def busy(study: Path) -> dict[str, int]:
    """The process of each trial that runs, by name: from the notes, or the claims, of the trials."""
    return {name: int(note["process"]) for name, note in running_trials(study).items()}


def workers() -> dict[str, int]:
    """Processes that train, on this machine: for studies whose trials leave no note in the study's folder."""
    found = subprocess.run(
        ["pgrep", "-f", "zoo.studies.trial_worker:TrialWorker"], capture_output=True, text=True, check=False
    )
    return {f"process {process}": int(process) for process in found.stdout.split()}


def disturb(place: Place, study: Path, log: Path, events: list[str], store: bool) -> dict[str, Any]:
    """Carry out a study while the events happen to it, and continue it until every trial is finished."""
    done: Counter[str] = Counter()
    began, ids = time.monotonic(), {}
    repeated: set[str] = set()
    sessions = 0
    while True:
        sessions += 1
        session = place.begin(log, str(study), "--retry")
        while session.poll() is None:
            time.sleep(random.uniform(1.0, 6.0))
            for result in Results.open(study).outcomes:
                if result.finished and (file := study / "trials" / result.name / "run.json").is_file():
                    run = read_json(file)["id"]
                    if ids.setdefault(result.name, run) != run:
                        repeated.add(result.name)
            running = busy(study) if not store else workers()
            if not events or not running or session.poll() is not None:
                continue
            event = events.pop()
            if event == "trial":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(list(running.values())), signal.SIGKILL)
            elif event == "session":
                session.kill()
                session.wait()
            else:
                print(place.lose_machine(), flush=True)
            done[event] += 1
            print(f"{time.monotonic() - began:.0f} s: {event}; {len(ids)} finished", flush=True)
        results = Results.open(study)
        finished = sum(one.finished for one in results.outcomes)
        if finished == results.record["trials"] or time.monotonic() - began > 3000:
            break
    place.whole()
    lines = Counter(line["name"] for line in read_lines(study / OUTCOMES_FILE) if line["status"] == "finished")
    failed = sum(line["status"] == "failed" for line in read_lines(study / OUTCOMES_FILE))
    return {
        "killed_trials": done["trial"],
        "killed_sessions": done["session"],
        "lost_machines": done["machine"],
        "sessions": sessions,
        "failed_outcomes_on_the_way": failed,
        "trials_finished_once": sum(count == 1 for count in lines.values()),
        "trials_finished_several_times": sum(count > 1 for count in lines.values()) + len(repeated),
        "tracebacks_printed": log.read_text(errors="replace").count("Traceback"),
        "seconds": round(time.monotonic() - began, 1),
    }


def overhead(study: Path) -> float:
    """Seconds per trial beyond the run, of a study with one trial at a time: from the first outcome to the last."""
    outcomes = Results.open(study).outcomes[2:]  # whose processes had been started
    times = [datetime.fromisoformat(one.time).timestamp() for one in outcomes]
    return (max(times) - min(times) - sum(one.seconds for one in outcomes[1:])) / (len(outcomes) - 1)


@contextmanager
def place_of(words: list[str], name: str, folder: Path) -> Iterator[Place]:
    if name != "cluster":
        yield Place(["--on", name, *words], {})
        return
    with machines("head", "a", "b") as found, tempfile.TemporaryDirectory(prefix="zr", dir="/tmp") as short:
        store = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        cluster = Cluster(Path(short), found, store)
        for one, cpus in (("head", 0), ("a", 1), ("b", 1)):
            cluster.start(one, cpus)
        environment = {**QUIET, "RAY_AUTH_TOKEN": TOKEN, "HOME": str(folder)}
        yield Place(["--on", f"ray://{cluster.head}", *words], environment, cluster)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="images")
    parser.add_argument("--on", action="append", required=True, help="where; may be given several times")
    parser.add_argument("--store", help="through which runs are exchanged")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20, help="processes of trials to kill")
    parser.add_argument("--sessions", type=int, default=5, help="times that the session is killed")
    parser.add_argument("--machines", type=int, default=5, help="machines to lose, on `cluster`")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    options = parser.parse_args()
    known: dict[str, Any] = read_json(OUT) if OUT.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        asked = ["--data", options.data, "--backbone", "timm/test_resnet", "--no-test"]
        asked += [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
        asked += [word for one in STRATEGIES for word in ("--strategy", one)]
        asked += [word for seed in range(options.trials // len(STRATEGIES)) for word in ("--seed", str(seed))]
        here = Place([], {}).begin(Path(name) / "calm.log", *asked, "--out", str(calm))
        assert here.wait() == 0, (Path(name) / "calm.log").read_text()
        one = Results.open(calm)
        for number, where in enumerate(options.on):
            study, log = Path(name) / f"study-{number}", Path(name) / f"study-{number}.log"
            study.mkdir()
            for file in ("study.json", COSTS_FILE):
                shutil.copy(calm / file, study / file)
            words = ["--jobs", str(options.jobs), *(["--store", options.store] if options.store else [])]
            events = ["trial"] * options.kills + ["session"] * options.sessions
            events += ["machine"] * (options.machines if where == "cluster" else 0)
            random.Random(number).shuffle(events)
            disturbed = bool(events)
            with place_of(words, where, Path(name)) as place:
                found = disturb(place, study, log, events, bool(options.store))
            other = {result.name: result for result in Results.open(study).outcomes}
            equal = [
                result.name in other
                and other[result.name].metrics == result.metrics
                and bool(
                    (
                        one.run(result).predictions().logits
                        == Run.open(study / "trials" / result.name).predictions().logits
                    ).all()
                )
                for result in one.outcomes
            ]
            found |= {"trials": len(one.outcomes), "metrics_and_logits_equal_bit_for_bit": sum(equal)}
            found |= {"machine": machine(), "versions": versions()}
            if not disturbed and options.jobs == 1:
                found["overhead_seconds_per_trial"] = round(overhead(study), 2)
            key = " ".join([where, *(["--store", options.store.partition("://")[0]] if options.store else [])])
            known[key if disturbed else f"{key}, undisturbed"] = found
            print(key, json_text(found, indent=2), flush=True)
            if not all(equal) or found["tracebacks_printed"]:
                print(log.read_text(errors="replace")[-6000:], flush=True)
            OUT.write_text(json_text(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
