"""Kill a run with `kill -9` repeatedly, resume it, and compare its weights with those of an undisturbed run.

    python benchmarks/kills.py --kills 50 --out benchmarks/results/kills.json

The run has three phases, so that every kind of training state has to survive: the head by steps; the last two stages
with averaged weights and mixup; all stages with recomputed statistics. It also has early stopping. It is killed at
a random time after the first checkpoint of a session; every third time, while a checkpoint is being written. After
`--each` kills the run may end, and the SHA-256 of its weights is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from zoo.system.environment import machine, versions

STRATEGY = "linear,solver=sgd,epochs=3+partial:2,epochs=3,ema=0.9,mixup=0.2+full,epochs=2,norm=recalibrate"
SETTINGS = ["--data", "digits", "--backbone", "timm/test_efficientnet", "--weights", "none", "--image-size", "64"]
SETTINGS += ["--early-stopping", "1"]  # a phase of three epochs can end early only by a patience of one


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "zoo_cli.main", "train", *arguments]


def start(folder: Path, every: float, log: Path) -> subprocess.Popen[bytes]:
    """Start the run, or resume it if it was started before."""
    if (folder / "run.json").is_file():
        arguments = ["--resume", str(folder)]
    else:
        arguments = [*SETTINGS, "--strategy", STRATEGY, "--save-every", f"{every}s", "--out", str(folder)]
    with log.open("ab") as stream:
        return subprocess.Popen(command(*arguments), stdout=stream, stderr=stream)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise SystemExit(f"a run failed:\n{log.read_text()[-2000:]}")


def saved(folder: Path) -> float:
    """The modification time of the newest checkpoint, in seconds since the epoch; 0 if there is none."""
    found = [0.0]
    for file in folder.glob("checkpoint*.safetensors"):
        with contextlib.suppress(OSError):  # renamed at this moment
            found.append(file.stat().st_mtime)
    return max(found)


def kill(
    process: subprocess.Popen[bytes], folder: Path, wait: float, during_save: bool, before: float
) -> dict[str, Any] | None:
    """Kill the session `wait` seconds after its first save; details of the kill, or None if it ended before."""
    while process.poll() is None and saved(folder) == before:
        time.sleep(0.002)
    deadline = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    if during_save:
        while process.poll() is None and not any(folder.glob(".checkpoint*")):
            time.sleep(0.0002)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    killed = time.time()
    process.wait()
    hit = "during a save" if any(folder.glob(".checkpoint*")) else "between saves"
    return {"wait": round(wait, 3), "hit": hit, "seconds_redone": round(killed - saved(folder), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills in total")
    parser.add_argument("--each", type=int, default=5, help="number of kills of one run before it may end")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between saves")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--out", type=Path, help="file to write the results to")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        began = time.monotonic()
        finish(start(root / "whole", options.every, root / "whole.log"), root / "whole.log")
        record = json.loads((root / "whole" / "run.json").read_text())
        wanted, steps = record["weights_sha256"], record["steps"]
        training = record["seconds"]["train"]
        print(f"undisturbed: {steps} steps, {training:.1f} s of training, {wanted[:12]}", flush=True)
        rows: list[dict[str, Any]] = []
        number = 0
        while len(rows) < options.kills:
            number += 1
            folder, log = root / f"run{number}", root / f"run{number}.log"
            for _ in range(min(options.each, options.kills - len(rows))):
                before = saved(folder)
                process = start(folder, options.every, log)
                wait = generator.uniform(0, training / options.each)
                how = kill(process, folder, wait, len(rows) % 3 == 2, before)
                if how is None:
                    break
                rows.append({"run": number, **how})
            finish(start(folder, options.every, log), log)
            ended = json.loads((folder / "run.json").read_text())
            resumed = [session["step"] for session in ended["resumed"]]
            mine = [row for row in rows if row["run"] == number]
            logged = [int(step) for step in re.findall(r"resumed at step (\d+)", log.read_text())]
            assert logged == resumed, (logged, resumed)
            for row, step in zip(mine, resumed):
                row |= {"resumed_at": step, "equal": ended["weights_sha256"] == wanted}
            same = "equal" if ended["weights_sha256"] == wanted else "DIFFERENT"
            print(f"run {number}: {len(mine)} kills, resumed at steps {resumed}: {same}", flush=True)
        cost = record["checkpoints"]
        summary = {
            "kills": len(rows),
            "during_a_save": sum(row["hit"] == "during a save" for row in rows),
            "equal": sum(row["equal"] for row in rows),
            "most_seconds_redone": max(row["seconds_redone"] for row in rows),
            "steps": steps,
            "seconds_between_saves": options.every,
            "seconds_of_training": round(training, 2),
            "saves": cost,
            "seconds": round(time.monotonic() - began, 1),
        }
        print(json.dumps(summary, indent=2, allow_nan=False))
        if options.out:
            about = {"machine": machine(), "versions": versions(), "threads": os.environ.get("OMP_NUM_THREADS")}
            options.out.write_text(json.dumps({**summary, **about, "rows": rows}, indent=2, allow_nan=False) + "\n")
        if summary["equal"] != len(rows):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
