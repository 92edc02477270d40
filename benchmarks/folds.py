"""Folds on 60 images, beside one validation split: `python benchmarks/folds.py HYMENOPTERA OUT`.

Links the first 30 files of each class of `HYMENOPTERA/train` into a folder without splits, and trains it both ways.
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
    asked = zoo.Experiment(data=out / "photos", backbone="efficientnet_lite0", strategy="linear", folds=folds)  # type: ignore[arg-type]
    run = zoo.train(asked, out=out / name.replace(" ", "-"))
    low, high = run.record["accuracy_interval_95"]
    print(f"{name}: {len(run.predictions())} images, accuracy {run.metrics['accuracy']:.3f}, {low:.3f} to {high:.3f}")
