"""Kills the trials of a study on Ray or Slurm, and its session: every trial must have one outcome, and the same bits.

    python benchmarks/study_places.py PHOTOS --on ray
    python benchmarks/study_places.py PHOTOS --on slurm:cluster=local

A study of eight trials is carried out undisturbed by one process, then at the place: processes of trials are killed by
SIGKILL, and the session, which `zoo study FOLDER` continues; trials that were killed are continued by `--retry`.
Writes `benchmarks/results/study_places.json`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from zoo.runs.run import Run
from zoo.storage.files import json_text, read_lines
from zoo.studies.results import COSTS_FILE, OUTCOMES_FILE, Results
from zoo.studies.running import running_trials
from zoo.system.environment import machine, versions

OUT = Path(__file__).parent / "results" / "study_places.json"
SETTINGS = [
    "--weights",
    "none",
    "--image-size",
    "32",
    "--batch-size",
    "8",
    "--epochs",
    "2",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--no-test",
]
SEEDS = range(4)
WAIT = 300.0


def zoo(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zoo_cli.main", "study", *arguments, "--threads", "1"]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def running(study: Path, session: subprocess.Popen[bytes], but: set[str]) -> tuple[str, int] | None:
    """The name and the process of a trial that runs and is not among `but`; None where the session ends before."""
    until = time.monotonic() + WAIT
    while session.poll() is None and time.monotonic() < until:
        for name, note in running_trials(study).items():
            if name not in but:
                return name, int(note["process"])
        time.sleep(0.05)
    return None


def kill_at(place: list[str], study: Path, log: Path, kills: int, drivers: int) -> dict[str, Any]:
    killed: set[str] = set()
    killed_drivers = 0
    began = time.monotonic()
    while True:
        session = zoo(log, str(study), *place)
        for _ in range(2):
            found = running(study, session, killed)
            if found is None or len(killed) >= kills:
                break
            time.sleep(0.5)
            try:
                os.kill(found[1], signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(found[0])
            print(f"killed the process of {found[0]}", flush=True)
        if killed_drivers >= drivers:
            status = session.wait(WAIT)
            break
        if running(study, session, killed) is None:
            status = session.wait(WAIT)
            break
        session.kill()
        session.wait()
        killed_drivers += 1
        print(f"killed the session; {len(Results.open(study).outcomes)} outcomes", flush=True)
    before = Counter(str(one.state) for one in Results.open(study).outcomes)
    lines = Counter(line["name"] for line in read_lines(study / OUTCOMES_FILE))
    again = zoo(log, str(study), *place, "--retry").wait(WAIT)
    return {
        "killed_trials": len(killed),
        "killed_sessions": killed_drivers,
        "outcomes_before_retry": dict(before),
        "trials_with_one_outcome": sum(count == 1 for count in lines.values()),
        "trials_with_several": sum(count > 1 for count in lines.values()),
        "exit_codes": [status, again],
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of photographs")
    parser.add_argument("--on", action="append", required=True, help="where; may be given several times")
    parser.add_argument("--kills", type=int, default=3, help="processes of trials to kill")
    parser.add_argument("--sessions", type=int, default=2, help="times that the session is killed")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        asked = ["--data", options.data, "--backbone", "timm/test_resnet", *SETTINGS]
        asked += ["--strategy", "full", "--strategy", "partial:1"]
        asked += [word for seed in SEEDS for word in ("--seed", str(seed))]
        assert zoo(Path(name) / "calm.log", *asked, "--out", str(calm)).wait() == 0
        one = Results.open(calm)
        for number, place in enumerate(options.on):
            study, log = Path(name) / f"study-{number}", Path(name) / f"study-{number}.log"
            study.mkdir()
            for file in ("study.json", COSTS_FILE):
                shutil.copy(calm / file, study / file)
            words = ["--on", place, "--jobs", "2"]
            found[place] = kill_at(words, study, log, options.kills, options.sessions)
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
            found[place] |= {"trials": len(one.outcomes), "metrics_and_logits_equal_bit_for_bit": sum(equal)}
            print(json_text(found[place], indent=2), flush=True)
            if not all(equal):
                print(log.read_text(errors="replace")[-4000:], flush=True)
    OUT.write_text(json_text({**found, "machine": machine(), "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
