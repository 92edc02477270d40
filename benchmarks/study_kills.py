"""Kills a study repeatedly: the leaderboard must equal that of an undisturbed study, and no trial may run twice.

    python benchmarks/study_kills.py PHOTOS --kills 10

The study and its workers are killed by SIGKILL at random moments, and continued each time by `zoo study FOLDER`. Writes
`benchmarks/results/study_kills.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from zoo.runs.run import Run
from zoo.storage.files import read_lines
from zoo.studies.results import COSTS_FILE, OUTCOMES_FILE, Results
from zoo.system.environment import machine, versions

OUT = Path(__file__).parent / "results" / "study_kills.json"
STRATEGIES = ("linear", "knn:10", "partial:2", "partial:1")
TIMES = ("seconds", "core_seconds")  # columns of the leaderboard that differ from run to run


def zoo(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zoo_cli.main", "study", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(results: Results) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in results.leaderboard["rows"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of photographs")
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        calm, killed = Path(name) / "calm", Path(name) / "killed"
        asked = ["--data", options.data, "--backbone", "efficientnet_lite0"]
        asked += [word for strategy in STRATEGIES for word in ("--strategy", strategy)]
        began = time.monotonic()
        assert zoo(*asked, "--out", str(calm)).wait() == 0
        whole = time.monotonic() - began
        print(f"undisturbed: {whole:.0f} s", flush=True)
        killed.mkdir()
        for file in ("study.json", COSTS_FILE):  # copied, because latencies differ from measurement to measurement
            shutil.copy(calm / file, killed / file)
        moments = []
        while len(moments) < options.kills:
            process = zoo(str(killed))
            moment = float(generator.uniform(2, whole / 8))
            try:
                process.wait(moment)
                print("the study ended before it could be killed", flush=True)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                moments.append(round(moment, 2))
                done = len(Results.open(killed).outcomes)
                print(f"kill {len(moments)} after {moment:.1f} s, {done} trials are done", flush=True)
        assert zoo(str(killed)).wait() == 0
        one, other = Results.open(calm), Results.open(killed)
        names = [outcome["name"] for outcome in other.outcomes]
        written = [line["name"] for line in read_lines(killed / OUTCOMES_FILE)]
        bits = [
            bool(
                (
                    Run.open(calm / "trials" / name).predictions().logits
                    == other.run({"name": name}).predictions().logits
                ).all()
            )
            for name in names
        ]
        found = {
            "kills": len(moments),
            "seconds_before_each": moments,
            "trials": len(one.outcomes),
            "outcomes": len(names),
            "outcomes_twice": len(written) - len(set(written)),
            "same_leaderboard": rows(one) == rows(other),
            "logits_equal_bit_for_bit": f"{sum(bits)} of {len(bits)}",
            "looks": [len(one.looks()), len(other.looks())],
            "machine": machine(),
            "versions": versions(),
        }
    OUT.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    print(json.dumps(found, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
