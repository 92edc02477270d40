"""The sampler: every image, in batches that can train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests_support import TINY

from zoo.training.sampler import batches, epoch_order


@pytest.mark.parametrize(
    ("images", "size", "lengths"), [(9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (10, 4, [4, 4, 2])]
)
def test_batches_leave_no_image_out_and_none_alone(images: int, size: int, lengths: list[int]) -> None:
    cuts = batches(np.arange(images), size)
    assert [len(cut) for cut in cuts] == lengths and np.concatenate(cuts).tolist() == list(range(images))


def test_balanced_draws_show_classes_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    drawn = labels[epoch_order(labels, replace(TINY, class_balance="sample"), 0)]
    assert 0.44 < drawn.mean() < 0.56
    plain = epoch_order(labels, TINY, 0)
    assert sorted(plain) == list(range(1000)) and not np.array_equal(plain, epoch_order(labels, TINY, 1))
