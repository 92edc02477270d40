"""Fine-tune on a folder of photographs, evaluate once on the test split, and export one verified file.

Run it so: `python examples/train_and_export.py photos runs/example`
"""

from __future__ import annotations

import sys

import zoo


def main(data: str, out: str) -> None:
    experiment = zoo.Experiment(data=data, backbone="efficientnet_lite0", strategy="linear", image_size=64)
    run = zoo.train(experiment, out=out, force=True, progress=zoo.ProgressBar())
    tested = zoo.evaluate(run, split="test")
    print(f"test accuracy {tested.metrics['accuracy']:.3f}, {len(tested.predictions)} photographs")

    file = zoo.export(run, force=True)
    checks = zoo.verify(file.path)
    print(f"{file.path}: {file.parity.agreeing} of {file.parity.images} labels are the run's")
    print(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
