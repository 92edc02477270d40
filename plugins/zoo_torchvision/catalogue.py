"""The catalogue of all classification networks of torchvision, with their published weights.

It does not import torchvision: the entries are generated once for each installed version and stored in the cache
folder.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from zoo.backbone import Backbone
from zoo.storage.cache import memoise, source_key
from zoo.system.lazy_compiler import without_compiler


def catalogue_rows() -> list[Backbone]:
    """The catalogue from the cache folder; generated from torchvision the first time."""
    return memoise(
        "torchvision",
        f"torchvision {version('torchvision')} {source_key(Path(__file__).with_name('rows.py'))}",
        _generate,
        encode=lambda backbones: [row.to_json() for row in backbones],
        decode=lambda kept: [Backbone.from_json(row) for row in kept],
    )


def _generate() -> list[Backbone]:
    with without_compiler():
        from zoo_torchvision.rows import generate_rows  # imports torchvision

    return generate_rows()
