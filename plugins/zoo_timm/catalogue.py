"""The catalogue of all networks of timm, with all their published weights.

It does not import timm: the entries are generated once for each installed version and stored in the cache folder.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from zoo.backbone import Backbone
from zoo.storage.cache import memoise, source_key
from zoo.system.lazy_compiler import without_compiler


def catalogue_rows() -> list[Backbone]:
    """The catalogue from the cache folder; generated from timm the first time."""
    here = Path(__file__).parent
    return memoise(
        "timm",
        f"timm {version('timm')} {source_key(here / 'rows.py', here / 'top1.json')}",
        _generate,
        encode=lambda backbones: [row.to_json() for row in backbones],
        decode=lambda kept: [Backbone.from_json(row) for row in kept],
    )


def _generate() -> list[Backbone]:
    with without_compiler():
        from zoo_timm.rows import generate_rows  # imports timm

    return generate_rows()
