"""The catalogue of built-in augmentations. Imports no torch; `views.py` does."""

from __future__ import annotations

from zoo.augmentation import Augmentation
from zoo.option import Option

_LEAST = Option(name="least", default=0.5, summary="smallest share of the area that a crop shows", low=0.05, high=1)

_ROWS = (
    ("flip", "mirrored left to right", ()),
    ("flips", "mirrored left to right and upside down, for images without an upper side", ()),
    ("turns", "mirrored, and turned by quarter turns (half turns of rectangles)", ()),
    (
        "rotate",
        "mirrored, and turned a little",
        (Option(name="degrees", default=15.0, summary="largest angle", low=0, high=180),),
    ),
    (
        "zoom",
        "mirrored, and cropped at random",
        (Option(name="least", default=0.35, summary=_LEAST.summary, low=0.05, high=1),),
    ),
    (
        "light",
        "mirrored, cropped, and brightness and contrast changed",
        (Option(name="strength", default=0.2, summary="largest change of each, as a share", low=0, high=1), _LEAST),
    ),
    (
        "colour",
        "as `light`, with saturation and a quarter as much of hue",
        (Option(name="strength", default=0.4, summary="largest change of each, as a share", low=0, high=1), _LEAST),
    ),
    (
        "erase",
        "as `light`, and a rectangle erased (Zhong et al. 2020)",
        (
            Option(name="chance", default=0.25, summary="share of the views in which one is erased", low=0, high=1),
            Option(name="share", default=0.33, summary="largest share of the area", low=0.02, high=0.9),
        ),
    ),
    ("trivial", "mirrored, cropped, and TrivialAugment (Müller and Hutter 2021)", (_LEAST,)),
    (
        "rand",
        "mirrored, cropped, and RandAugment (Cubuk et al. 2020)",
        (
            Option(name="magnitude", default=9, summary="strength of each operation", low=0, high=30),
            Option(name="operations", default=2, summary="operations of each view", low=1, high=10),
            _LEAST,
        ),
    ),
    ("auto", "mirrored, cropped, and the ImageNet policy of AutoAugment (Cubuk et al. 2019)", (_LEAST,)),
    (
        "augmix",
        "mirrored, cropped, and AugMix (Hendrycks et al. 2020)",
        (
            Option(name="severity", default=3, summary="strength of each operation", low=1, high=10),
            Option(name="width", default=3, summary="chains of operations that are mixed", low=1, high=10),
            _LEAST,
        ),
    ),
)

AUGMENTATIONS = (
    Augmentation(
        name="none", summary="the centre crop alone", target="zoo.data.augmentation:centre_crop", random=False
    ),
    *(
        Augmentation(name=name, summary=summary, target=f"zoo_augmentations.views:{name}", options=options)
        for name, summary, options in _ROWS
    ),
)
