"""Measures fine-tuning techniques one at a time: each changes one setting of the same run.

    python benchmarks/techniques.py runs/techniques PATH --seeds 3 --report benchmarks/results/techniques.md

PATH has `train` and `val`; `val` is scored once, at the end of each run, and nothing is chosen on it. Finished runs are
not repeated, so the script can be stopped and started; the table is written from all that are finished. Runs have one
thread each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from strategies import slug, train

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


def finished(root: Path, strategy: str, settings: tuple[str, ...], seeds: int) -> dict[int, Run]:
    """The finished runs by their seeds."""
    folders = {seed: folder_of(root, strategy, settings, seed) for seed in range(seeds)}
    runs = {seed: Run.open(folder) for seed, folder in folders.items() if (folder / "run.json").is_file()}
    return {seed: run for seed, run in runs.items() if run.status == "finished"}


def right_of(runs: Sequence[Run]) -> npt.NDArray[np.float64]:
    """The share of the runs that classify each image correctly `(images,)`."""
    tables = [run.predictions() for run in runs]
    return np.stack([table.predicted == table.labels for table in tables]).mean(0)


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
        f"Each row changes one thing of a run of `{BASE}` with default settings. Figures are means over seeds on "
        "hymenoptera's 153 photographs of `val`; precision, recall and F1 are macro averages. The change in accuracy "
        "is that from the unchanged runs with the same seeds; its interval (95 %) is a bootstrap over photographs, "
        "since both classify the same ones. With one seed it says nothing of chance in training.",
        "",
        "| technique | what is changed | seeds | accuracy | precision | recall | F1 | change in accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    unchanged = finished(root, BASE, (), seeds)
    for technique, told, strategy, settings in ROWS:
        runs = {seed: run for seed, run in finished(root, strategy, settings, seeds).items() if seed in unchanged}
        if not runs:
            continue
        moved = right_of([*runs.values()]) - right_of([unchanged[seed] for seed in runs])
        drawn = np.random.default_rng(0).integers(0, len(moved), (DRAWN, len(moved)))
        low, high = np.quantile(moved[drawn].mean(1), (0.025, 0.975))
        change = f"{moved.mean():+.3f} ({low:+.3f} to {high:+.3f})" if told else "-"
        names = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
        figures = " | ".join(f"{np.mean([run.metrics[name] for run in runs.values()]):.3f}" for name in names)
        code = f"`{told}`" if told else f"`--strategy {BASE}`"
        lines.append(f"| {technique} | {code} | {len(runs)} | {figures} | {change} |")
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
