"""Accuracy with every `--fit`, and with a rectangle, on the same images; each run is exported and verified.

    python benchmarks/whole_image.py runs/whole hymenoptera=PATH --seeds 3

Finished runs are not repeated. The strategy is `linear` on EfficientNet-Lite0, whose weights come by pip; other
settings are the defaults. `verify` compares the file's label of every reported image with the run's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import zoo
from zoo.system.environment import machine, versions

FORMS: dict[str, dict[str, Any]] = {
    "crop": {"fit": "crop"},
    "squash": {"fit": "squash"},
    "pad": {"fit": "pad"},
    "pad, white": {"fit": "pad", "fill": (255, 255, 255)},
    "crop 192x256": {"fit": "crop", "image_size": "192x256"},
    "squash 192x256": {"fit": "squash", "image_size": "192x256"},
    "pad 192x256": {"fit": "pad", "image_size": "192x256"},
}


def measure(data: str, form: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Accuracy of one run, its interval, and whether its file passed every check."""
    if (folder / "run.json").is_file():
        run = zoo.resume(folder) if zoo.Run.open(folder).status != "finished" else zoo.Run.open(folder)
    else:
        experiment = zoo.Experiment(data=data, backbone="efficientnet_lite0", strategy="linear", seed=seed, **form)
        run = zoo.train(experiment, out=folder)
    file = folder / "model.onnx"
    if not file.is_file():
        zoo.export(run, out=file)
    checks = zoo.verify(file, data=data)
    parity = zoo.inspect(file)["parity"]
    return {
        "accuracy": run.record["metrics"]["accuracy"],
        "interval": run.record["accuracy_interval_95"],
        "failed": [check.name for check in checks if not check.passed],
        "checks": len(checks),
        "preprocess": str(run.preprocess),
        "parity": parity,
    }


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results/whole_image.md")
    given = parser.parse_args()
    lines = ["# Accuracy by `--fit`", ""]
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines += [f"`python benchmarks/whole_image.py OUT NAME=PATH --seeds {given.seeds}`", ""]
    lines += [f"EfficientNet-Lite0, `linear`; {machine()['processor']}, {named}.", ""]
    found: list[dict[str, Any]] = []
    for name, path in (one.split("=", 1) for one in given.data):
        lines += [
            f"## {name}",
            "",
            "| form | accuracy by seed | 95 % interval (seed 0) | `zoo verify` | resize, graph against Pillow |",
        ]
        lines += ["| --- | --- | --- | --- | --- |"]
        for form, settings in FORMS.items():
            place = given.out / name / form.replace(", ", "-").replace(" ", "-")
            folders = [place / str(seed) for seed in range(given.seeds)]
            rows = [measure(path, settings, seed, folder) for seed, folder in enumerate(folders)]
            found += [{"data": name, "form": form, "seed": seed, **row} for seed, row in enumerate(rows)]
            low, high = rows[0]["interval"]
            failed = sum(len(row["failed"]) for row in rows)
            passed = f"{sum(row['checks'] for row in rows)} checks passed" if not failed else f"**{failed} failed**"
            stages = {stage["name"]: stage for stage in rows[0]["parity"].get("stages", [])}
            resize = f"{stages['resize']['largest']:.2g} grey levels" if "resize" in stages else "-"
            accuracies = ", ".join(f"{row['accuracy']:.4f}" for row in rows)
            lines.append(f"| {form} | {accuracies} | {low:.3f} to {high:.3f} | {passed} | {resize} |")
        lines.append("")
    given.results.write_text("\n".join(lines))
    given.results.with_suffix(".json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
