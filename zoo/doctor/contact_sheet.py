"""Contact sheet: findings as one HTML file with small pictures, pairs side by side. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.doctor.examination import Examination
from zoo.doctor.findings import KINDS, Finding
from zoo.doctor.survey import Survey
from zoo.errors import counted

TEMPLATE = Path(__file__).with_name("contact_sheet.html.j2")
SHOWN = 48  # findings of one kind that are drawn; all are in `doctor.csv`
SIDE = 128  # pixels of a picture
QUALITY = 80


def contact_sheet(examination: Examination, seen: Survey, *, photographs: bool = True) -> str:
    """The page as HTML; without `photographs` it has names alone."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    total = sum(examination.images.values())
    return template.render(
        title=f"doctor of {examination.data}",
        verdict=_verdict(examination),
        images=", ".join(f"{role} {count:,}" for role, count in examination.images.items()),
        total=total,
        backbone=examination.backbone,
        notes=examination.notes,
        power=[str(one) for one in examination.power],
        sections=list(_sections(examination, _Pictures(seen, photographs))),
        classes=_classes(examination),
        splits=list(examination.images),
        least=examination.least_agreement,
        compared=examination.compared,
        accuracy=examination.label_accuracy,
    )


def _verdict(examination: Examination) -> str:
    found = len(examination.findings)
    images = len({one.id for one in examination.findings})
    if not found:
        return "Nothing was found."
    return f"{counted(found, 'finding')} about {counted(images, 'image')}. Nothing was changed."


def _classes(examination: Examination, most: int = 200) -> list[dict[str, Any]]:
    """Rows of the table of classes: the rarest first, `most` of them."""
    rows = sorted(examination.classes.items(), key=lambda one: (sum(one[1].values()), one[0]))
    return [{"name": name, "counts": dict(counts)} for name, counts in rows[:most]]


def _sections(examination: Examination, pictures: _Pictures) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        found = [one for one in examination.findings if one.kind == kind.name]
        if found:
            yield {
                "kind": kind,
                "count": len(found),
                "more": max(len(found) - SHOWN, 0),
                "figures": [_figure(one, pictures) for one in found[:SHOWN]],
            }


def _figure(one: Finding, pictures: _Pictures) -> dict[str, Any]:
    ids = [one.id, *([one.partner] if one.partner else [])]
    places = [(one.split, one.label), (one.partner_split, pictures.label_of(one.partner))]
    return {
        "pair": bool(one.partner),
        "images": [
            {"id": name, "split": split, "label": label, "picture": pictures.of(name)}
            for name, (split, label) in zip(ids, places)
        ],
        "why": one.why,
        "score": one.score,
        "exclude": one.exclude,
    }


class _Pictures:
    """Small pictures of the surveyed images by id, each encoded once."""

    def __init__(self, seen: Survey, drawn: bool) -> None:
        self._drawn = drawn
        self._pixels: dict[str, npt.NDArray[np.uint8]] = {}
        self._labels: dict[str, str] = {}
        for part in seen.parts.values():
            for sample, row in zip(part.samples, part.pixels):
                self._pixels[sample.id] = row
                self._labels[sample.id] = sample.label
        self._encoded: dict[str, str] = {}

    def label_of(self, name: str) -> str:
        return self._labels.get(name, "")

    def of(self, name: str) -> str | None:
        """The picture as a data URI; None for an image that cannot be read, or where none are drawn."""
        if not self._drawn or name not in self._pixels:
            return None
        if name not in self._encoded:
            picture = Image.fromarray(np.ascontiguousarray(self._pixels[name]))
            picture.thumbnail((SIDE, SIDE))
            data = io.BytesIO()
            picture.save(data, "JPEG", quality=QUALITY)
            self._encoded[name] = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
        return self._encoded[name]
