"""Rows of the augmentations of Albumentations (Buslaev et al. 2020).

The rows are a fixed set: one for each kind of change that the built-in augmentations lack, with one strength.
"""

from __future__ import annotations

from zoo.augmentation import Augmentation
from zoo.option import Option

_OPTIONS = (
    Option(name="strength", default=0.5, summary="how far the change goes at most", low=0.01, high=1),
    Option(name="chance", default=0.5, summary="share of the views that are changed", low=0.01, high=1),
    Option(name="least", default=0.5, summary="smallest share of the area that a crop shows", low=0.05, high=1),
)

_ROWS = (
    ("blur", "Gaussian, motion or defocus blur"),
    ("noise", "Gaussian noise, or that of a sensor"),
    ("compress", "JPEG's artefacts, or a lower resolution"),
    ("tone", "local contrast, gamma, tone curve, shifted colours"),
    ("camera", "two of `blur`, `noise`, `compress` and `tone`"),
    ("weather", "rain, fog, snow or shadow"),
    ("distort", "elastic, grid or lens distortion"),
    ("perspective", "seen from another side"),
    ("holes", "one to eight rectangles erased (DeVries and Taylor 2017)"),
)

ROWS = tuple(
    Augmentation(
        name=name,
        summary=f"mirrored, cropped, and {summary}",
        target=f"zoo_albumentations.views:{name}",
        options=_OPTIONS,
        requires=("albumentations", "cv2"),
        install="pip install 'backbone-zoo[albumentations]'",
    )
    for name, summary in _ROWS
)
