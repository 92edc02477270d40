"""Measures fine-tuning techniques one at a time: each changes one setting of the same run.

    python benchmarks/techniques.py runs/techniques PATH --seeds 3 --report benchmarks/results/techniques.md

PATH has `train` and `val`; `val` is scored once, at the end of each run, and nothing is chosen on it. Finished runs are
not repeated, so the script can be stopped and started; the table is written from all finished runs. Runs have one
thread each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from strategies import slug, train

from zoo.errors import counted
from zoo.runs.run import Run
from zoo.system.environment import machine, versions

BASE = "partial:2"
# Technique, what the run changes, strategy, settings
ROWS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("(the run that is changed)", "", BASE, ()),
    ("learning-rate schedule", "--schedule cosine --warmup 0", BASE, ("--schedule", "cosine", "--warmup", "0")),
    ("learning-rate schedule", "--schedule constant --warmup 0", BASE, ("--schedule", "constant", "--warmup", "0")),
    ("augmentation", "--augment none", BASE, ("--augment", "none")),
    ("augmentation", "--augment trivial", BASE, ("--augment", "trivial")),
    ("dropout", "--dropout 0", BASE, ("--dropout", "0")),
    ("dropout", "--dropout 0.5", BASE, ("--dropout", "0.5")),
    ("weight decay", "--weight-decay 0", BASE, ("--weight-decay", "0")),
    ("weight decay", "--weight-decay 0.1", BASE, ("--weight-decay", "0.1")),
    ("early stopping", "--epochs 20 --early-stopping 3", BASE, ("--epochs", "20", "--early-stopping", "3")),
    ("gradient clipping", "--clip 0", BASE, ("--clip", "0")),
    ("batch norm", "--norm train", BASE, ("--norm", "train")),
    ("batch norm", "--norm recalibrate", BASE, ("--norm", "recalibrate")),
    ("feature extraction", "--strategy linear", "linear", ()),
    ("freezing a part", "--strategy partial:1", "partial:1", ()),
    ("freezing a part", "--strategy full", "full", ()),
    ("unfreezing", "--strategy linear,epochs=1+full,epochs=4", "linear,epochs=1+full,epochs=4", ()),
)
DRAWN = 4000


def folder_of(root: Path, strategy: str, settings: tuple[str, ...], seed: int) -> Path:
    told = "-".join(word.lstrip("-") for word in settings)
    return root / f"{slug(strategy)}--{told or 'default'}--{seed}"


def finished(root: Path, strategy: str, settings: tuple[str, ...], seeds: int) -> list[Run]:
    folders = [folder_of(root, strategy, settings, seed) for seed in range(seeds)]
    runs = [Run.open(folder) for folder in folders if (folder / "run.json").is_file()]
    return [run for run in runs if run.status == "finished"]


def report(root: Path, backbone: str, seeds: int) -> str:
    """The table as Markdown; accuracies are compared image by image with those of the run that is changed."""
    found = versions()
    lines = [
        "# Fine-tuning techniques, one at a time",
        "",
        f"Made by `python benchmarks/techniques.py`; {backbone}, {machine()['processor']}, one thread for each run; "
        + ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "torchvision", "timm") if name in found)
        + ".",
        "",
        f"Each row changes one thing of a run of `{BASE}` with default settings. Figures are means over "
        f"{counted(seeds, 'seed')} on hymenoptera's 153 photographs of `val`; precision, recall and F1 are macro "
        "averages. The interval (95 %) is a bootstrap over photographs of the change in accuracy, since both runs "
        "classify the same ones.",
        "",
        "| technique | what is changed | accuracy | precision | recall | F1 | change in accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = None
    for technique, told, strategy, settings in ROWS:
        runs = finished(root, strategy, settings, seeds)
        if len(runs) < seeds:
            continue
        tables = [run.predictions() for run in runs]
        right = np.stack([table.predicted == table.labels for table in tables]).mean(0)
        base = right if base is None else base
        drawn = np.random.default_rng(0).integers(0, len(right), (DRAWN, len(right)))
        low, high = np.quantile((right - base)[drawn].mean(1), (0.025, 0.975))
        change = f"{(right - base).mean():+.3f} ({low:+.3f} to {high:+.3f})" if told else "-"
        names = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
        figures = " | ".join(f"{np.mean([run.metrics[name] for run in runs]):.3f}" for name in names)
        code = f"`{told}`" if told else f"`--strategy {BASE}`"
        lines.append(f"| {technique} | {code} | {figures} | {change} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder for the runs")
    parser.add_argument("data", help="images with `train` and `val`")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="backbone to train")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of each row")
    parser.add_argument("--report", type=Path, help="file to write the table to")
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for _, _, strategy, settings in ROWS:
            folder = folder_of(options.root, strategy, settings, seed)
            failed = train(folder, options.data, strategy, seed, options.backbone, list(settings))
            if failed:
                print(failed, file=sys.stderr, flush=True)
    text = report(options.root, options.backbone, options.seeds)
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
