"""Measures every strategy on the same images: accuracy on the reported split, trainable parameters and time.

    python benchmarks/strategies.py runs/strategies hymenoptera=PATH sign_digits=PATH --seeds 3

Finished runs are not repeated, so the script can be stopped and started; the table is written each time from all
finished runs. Settings are the defaults; others are passed after `--` and named in the table. Runs have one thread
each, and `--jobs` of them are trained at once, so times are comparable within one table only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from zoo.runs.run import Run
from zoo.system.environment import machine, versions

STRATEGIES = (
    "linear",
    "knn",
    "kmeans",
    "lpft",
    "partial:2",
    "lora:8",
    "dora:8",
    "ia3",
    "norm",
    "bitfit",
    "truncate:1",
    "full",
    "layerdecay:0.75",
    "l2sp:0.01",
    "delta",
    "surgical:2",
    "linear,solver=sgd",
    "linear,head=mlp:256",
    "gradual:4",
    "partial:2,ema=0.95,mixup=0.2",
    "scratch",
)


def train(folder: Path, data: str, strategy: str, seed: int, backbone: str, settings: list[str]) -> str:
    """Train one run, unless it is finished; returns the error message, or an empty text."""
    if (folder / "run.json").is_file() and Run.open(folder).status == "finished":
        return ""
    arguments = ["--resume", str(folder)]
    if not (folder / "run.json").is_file():
        arguments = ["--data", data, "--backbone", backbone, "--strategy", strategy, "--seed", str(seed), *settings]
        arguments += ["--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "zoo_cli.main", "train", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode == 0 and Run.open(folder).record["reported_split"] == "val":
        roles = json.loads((folder / "splits.json").read_text())["roles"]
        if "reported" not in roles:  # three splits: `val` may have been used for choices, so `test` is reported
            evaluate = [sys.executable, "-m", "zoo_cli.main", "evaluate", str(folder), "--split", "test"]
            done = subprocess.run(evaluate, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{folder.name}: {done.stderr.strip().splitlines()[-1]}"


def row(runs: list[Run]) -> dict[str, Any]:
    """Results of one strategy over its seeds."""
    tables = []
    for run in runs:
        held_out = (run.path / "predictions-test.safetensors").is_file()
        tables.append(run.predictions("test" if held_out else None))
    right = np.stack([table.predicted == table.labels for table in tables])  # seeds x images
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, right.shape[1], (4000, right.shape[1]))
    means = right.mean(0)[drawn].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    phases = runs[0].record["phases"]
    return {
        "seeds": [round(float(value), 4) for value in right.mean(1)],
        "accuracy": float(right.mean()),
        "interval": (float(low), float(high)),
        "val": [round(float(run.metrics["accuracy"]), 4) for run in runs],
        "split": tables[0].split,
        "trainable": max(phase["trainable_parameters"] for phase in phases),
        "epochs": sum(phase["epochs"] for phase in phases),
        "seconds": float(np.median([run.record["seconds"]["total"] for run in runs])),
    }


def report(root: Path, names: list[str], settings: list[str], jobs: int) -> str:
    """The tables as Markdown."""
    found = versions()
    wanted = ("python", "torch", "torchvision", "timm", "peft", "scikit-learn")
    lines = [
        "# Strategies",
        "",
        f"Made by `python benchmarks/strategies.py` with {' '.join(settings) or 'default settings'}; "
        f"{machine()['processor']}, {machine()['cores']} cores, one thread for each run, {jobs} at once; "
        + ", ".join(f"{name} {found[name]}" for name in wanted if name in found)
        + ".",
        "",
        "Accuracy is the mean over seeds, and its 95 % interval a bootstrap over images of that mean. Trainable "
        "parameters are those of the phase with the most. Seconds are the median time of whole runs.",
    ]
    for name in names:
        rows = []
        for strategy in STRATEGIES:
            folders = sorted(root.glob(f"{name}--{slug(strategy)}--*"))
            opened = [Run.open(folder) for folder in folders if (folder / "run.json").is_file()]
            runs = [run for run in opened if run.status == "finished"]
            if runs:
                rows.append((strategy, row(runs)))
        if not rows:
            continue
        split = rows[0][1]["split"]
        lines += ["", f"## {name}, scored on `{split}`", ""]
        chosen = " val |" if split == "test" else ""
        lines.append(f"| strategy | accuracy | 95 % interval | by seed |{chosen} trainable | epochs | seconds |")
        lines.append(f"| --- | --- | --- | --- |{' --- |' if chosen else ''} --- | --- | --- |")
        for strategy, figures in rows:
            low, high = figures["interval"]
            seeds = ", ".join(f"{value:.3f}" for value in figures["seeds"])
            val = f" {np.mean(figures['val']):.3f} |" if chosen else ""
            lines.append(
                f"| `{strategy}` | {figures['accuracy']:.3f} | {low:.3f} to {high:.3f} | {seeds} |{val} "
                f"{figures['trainable']:,} | {figures['epochs']} | {figures['seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def slug(strategy: str) -> str:
    return strategy.replace(":", "").replace(",", "-").replace("=", "")


def main() -> None:
    own, settings = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, settings = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder for the runs")
    parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="data sets, with names for the tables")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="backbone to train")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of each strategy")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs trained at once")
    parser.add_argument("--only", nargs="*", default=STRATEGIES, help="strategies to train; the default is all")
    parser.add_argument("--report", type=Path, help="file to write the tables to")
    options = parser.parse_args(own)
    sets = dict(pair.split("=", 1) for pair in options.data)
    options.root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [
            pool.submit(
                train,
                options.root / f"{name}--{slug(strategy)}--{seed}",
                data,
                strategy,
                seed,
                options.backbone,
                settings,
            )
            for seed in range(options.seeds)
            for name, data in sets.items()
            for strategy in options.only
        ]
        for future in futures:
            if future.result():
                print(future.result(), file=sys.stderr, flush=True)
    text = report(options.root, list(sets), settings, options.jobs)
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
