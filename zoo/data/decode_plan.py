"""The decode plan of a run: which images it decodes, to which size, and what their pixels depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.data.decoding import CHECKED, DecodeRequest
from zoo.data.image import Pixels, canvas, pixel_key, pixels
from zoo.data.roles import Roles
from zoo.dataset import Images, Sample
from zoo.preprocess import Preprocess

# A training image may be decoded at a fraction of its size, as long as its shorter side is this many times the longer
# side of the canvas. With photographs of 12 megapixels this is six times as fast (24 per second instead of 4), and the
# canvas differs by 0.24 grey levels on average
SPARE = 2


def fitted(samples: Sequence[Sample], preprocess: Preprocess) -> DecodeRequest:
    """The request for images that are trained on: canvases, from which views are cut."""

    def to_canvas(image: Pixels) -> Pixels:
        return canvas(image, preprocess)

    return DecodeRequest(samples, preprocess.canvas, to_canvas, SPARE * max(preprocess.canvas), preprocess.levels)


def evaluated(samples: Sequence[Sample], preprocess: Preprocess) -> DecodeRequest:
    """The request for images that are evaluated: input crops."""

    def to_crop(image: Pixels) -> Pixels:
        return pixels(image, preprocess)

    return DecodeRequest(samples, preprocess.input_size, to_crop, None, preprocess.levels)


def checked(samples: Sequence[Sample], preprocess: Preprocess) -> DecodeRequest:
    """The request for images that are only checked, decoded as small as a JPEG can be."""
    return DecodeRequest(samples, (1, 1), _nothing, 1, preprocess.levels)


# What images are used for, by their role; it decides how they are decoded, and in which precision they are computed
USES = {"fit": "fit", "choose": "evaluated", "reported": "evaluated", CHECKED: "checked"}
FORMS = {"fit": fitted, "evaluated": evaluated, "checked": checked}


def decode_requests(images: Images, roles: Roles, preprocess: Preprocess) -> dict[str, DecodeRequest]:
    """Decode requests by role: canvases of training images, and input crops of the images that are evaluated.

    Images of a `test` split that it does not use are only checked.
    """
    parts = {"fit": fitted(roles.fit, preprocess)}
    if roles.choose:
        parts["choose"] = evaluated(roles.choose, preprocess)
    if roles.reported is None:
        if "test" in images.splits:
            parts[CHECKED] = checked(images.splits["test"], preprocess)
    elif not images.may_choose:  # else the images that are reported are those of `choose`
        parts["reported"] = evaluated(images.splits[roles.reported], preprocess)
    elif roles.reported != "test":
        parts[CHECKED] = checked(images.splits["test"], preprocess)
    return parts


def _nothing(image: Pixels) -> Pixels:
    return np.zeros((1, 1, 3), np.uint8)


def store_keys(parts: Mapping[str, DecodeRequest], preprocess: Preprocess) -> dict[str, dict[str, Any]]:
    """Store keys of each part: everything besides the files that its pixels depend on."""
    return {
        name: {"size": part.size, "at_least": part.at_least, **pixel_key(preprocess)} for name, part in parts.items()
    }
