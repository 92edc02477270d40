"""Kill a run with `kill -9` again and again, resume it, and compare its weights with those of an undisturbed run.

    python benchmarks/kills.py --kills 50 --out benchmarks/results/kills.json

The run has three phases: a head by steps, the last two stages with an average of the weights and mixup, everything with
its statistics recomputed; with early stopping, so that every kind of state has to survive. It is killed at a time drawn
uniformly between its first save and its end; every third time as soon as a save is being written. A run that was killed
is resumed, and killed again, `--each` times, before it may end; then the SHA-256 of its weights is compared.
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
SETTINGS += ["--early-stopping", "2"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "zoo_cli.main", "train", *arguments]


def start(folder: Path, every: float, log: Path) -> subprocess.Popen[bytes]:
    """Begin the run, or resume it where it was begun before."""
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
    """When the newest checkpoint was written, in seconds of the clock; 0 without one."""
    found = [0.0]
    for file in folder.glob("checkpoint*.safetensors"):
        with contextlib.suppress(OSError):  # renamed while we look
            found.append(file.stat().st_mtime)
    return max(found)


def kill(
    process: subprocess.Popen[bytes], folder: Path, wait: float, during_save: bool, before: float
) -> dict[str, Any] | None:
    """Kill after the session's first save and `wait` more seconds; how it was hit, or None if it ended before."""
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
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=5, help="kills of one run before it may end")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between saves")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--out", type=Path)
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
        print(json.dumps(summary, indent=2))
        if options.out:
            about = {"machine": machine(), "versions": versions(), "threads": os.environ.get("OMP_NUM_THREADS")}
            options.out.write_text(json.dumps({**summary, **about, "rows": rows}, indent=2) + "\n")
        if summary["equal"] != len(rows):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
