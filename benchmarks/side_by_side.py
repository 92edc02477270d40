"""Two trainings side by side, beside one alone: `python benchmarks/side_by_side.py DATA`.

Whole processes, `full` for one epoch at 96 pixels, in turns: as zoo does it, with OpenMP's default of long spins
(`GOMP_SPINCOUNT=300000`), and with short ones (`GOMP_SPINCOUNT=1000`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from zoo.system.environment import machine

WAYS = {"zoo": {}, "long spins": {"GOMP_SPINCOUNT": "300000"}, "short spins": {"GOMP_SPINCOUNT": "1000"}}


def seconds(data: str, count: int, variables: dict[str, str]) -> float:
    """How long `count` trainings take that start at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        running = []
        for number in range(count):
            command = [sys.executable, "-m", "zoo_cli.main", "train", "--data", data, "--out", f"{folder}/{number}"]
            command += ["--backbone", "efficientnet_lite0", "--strategy", "full,epochs=1", "--image-size", "96"]
            places = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(command, env={**os.environ, **variables}, **places))  # type: ignore[call-overload]
        failed = [process.wait() for process in running]
        if any(failed):
            raise SystemExit(f"training ended with {failed}")
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    data = str(Path(asked.data).resolve())
    seconds(data, 1, {})  # the first decodes the images
    found: dict[tuple[str, int], list[float]] = {(way, count): [] for way in WAYS for count in (1, 2)}
    for _ in range(asked.repeats):
        for (way, count), every in found.items():
            every.append(seconds(data, count, WAYS[way]))
    print(machine())
    print("| threads wait with | alone, s | two side by side, s | ratio |\n|---|---:|---:|---:|")
    for way in WAYS:
        alone, both = median(found[way, 1]), median(found[way, 2])
        print(f"| {way} | {alone:.1f} | {both:.1f} | {both / alone:.2f} |")


if __name__ == "__main__":
    main()
