"""The settings of a peer's run, and the JSON line that it prints at the end."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODES = ("frozen", "partial", "fine_tune")
PACKAGES = ("fastai", "ultralytics", "torch", "torchvision", "timm", "numpy", "pillow")


def parse(description: str) -> argparse.ArgumentParser:
    """The options of every peer."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("--mode", choices=MODES, required=True, help="layers to train: head, last two stages, or all")
    parser.add_argument(
        "--epochs",
        type=int,
        default=5,
        help="number of epochs; for `fine_tune`, without its first epoch, which is frozen",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="number of processes that load images")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    return parser


def report(
    options: argparse.Namespace,
    *,
    seconds: dict[str, float],
    accuracy: float | None,
    observed: dict[str, Any],
    recipe: dict[str, str],
) -> None:
    """Print the results of a run as one line of JSON; `recipe` describes what is not an option."""
    record = {
        "settings": {name: str(value) if name == "data" else value for name, value in vars(options).items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "accuracy": accuracy,
        "observed": observed,
        "recipe": recipe,
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(record, allow_nan=False))
