"""Folds on 60 images, beside one validation split: `python benchmarks/folds.py HYMENOPTERA OUT`.

Links the first 30 files of each class of `HYMENOPTERA/train` into a folder without splits, and compares two
configurations both ways.
"""

from __future__ import annotations

import sys
from pathlib import Path

import zoo

source, out = Path(sys.argv[1]), Path(sys.argv[2])
for folder in sorted((source / "train").iterdir()):
    for file in sorted(folder.iterdir())[:30]:
        link = out / "photos" / folder.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
for name, folds in (("one split", None), ("5 folds", 5)):
    runs = []
    for backbone, strategy in (("efficientnet_lite0", "linear"), ("hog_color", "svm")):
        asked = zoo.Experiment(data=str(out / "photos"), backbone=backbone, strategy=strategy, folds=folds)
        run = zoo.train(asked, out=out / f"{name} {backbone}".replace(" ", "-"))
        low, high = run.record["accuracy_interval_95"]
        accuracy = f"accuracy {run.metrics['accuracy']:.3f}, {low:.3f} to {high:.3f}"
        print(f"{name}, {backbone} {strategy}: {len(run.predictions())} images, {accuracy}")
        runs.append(run)
    found = zoo.compare(runs)
    assert found is not None
    for pair in found.pairs:
        verdict = "significant" if pair.told_apart else "not significant"
        print(f"{name}: difference {pair.difference:.3f}, p {pair.p_value:.3f}, {verdict}")
