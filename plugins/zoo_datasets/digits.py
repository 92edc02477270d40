"""`digits`: the 8 x 8 handwritten digits that come with scikit-learn, for first steps and tests."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from zoo import Images, Sample, UsageError
from zoo.data.splitting import split_stratified


def open_digits(argument: str, split_seed: int) -> Images:
    """The digits as RGB images, split 70/15/15 by seed.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998).
    """
    if argument:
        raise UsageError(f"`digits` takes no argument, not `:{argument}`")
    digits = load_digits()
    grey = np.clip(np.rint(digits.images * (255 / 16)), 0, 255).astype(
        np.uint8
    )  # N x 8 x 8; the source has values 0 to 16
    samples = [
        Sample(f"{label}/{index:04d}", str(label), np.repeat(image[:, :, None], 3, axis=2))
        for index, (image, label) in enumerate(zip(grey, digits.target))
    ]
    return Images(
        name="digits",
        classes=tuple(str(name) for name in digits.target_names),
        splits=split_stratified(samples, split_seed),
        notes=(f"split 70/15/15 into train, val and test, stratified, by split seed {split_seed}",),
        drawn=True,
    )
