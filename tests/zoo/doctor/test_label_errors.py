"""Wrong labels and strangers by features, on data in which they are known."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.doctor import label_errors
from zoo.doctor.label_errors import PENALTY, WIDTH, label_scores, prepared
from zoo.doctor.strangers import find_strangers
from zoo.evaluation.power import split_power
from zoo.evaluation.statistics import images_needed


def blobs(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = generator.normal(0, 2, (classes, 40))
    return (centres[labels] + generator.normal(0, 1, (count, 40))).astype(np.float32), labels


def flipped(labels: np.ndarray, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    changed = np.random.default_rng(1).choice(len(labels), count, replace=False)
    labels = labels.copy()
    labels[changed] = (labels[changed] + 1) % classes
    return labels, changed


def test_flipped_labels_are_found() -> None:
    features, truth = blobs(400, 4)
    labels, changed = flipped(truth, 20, 4)
    found = label_scores(features, labels, 4)
    assert found is not None
    wrong = set(np.flatnonzero(found.wrong).tolist())
    assert len(wrong & set(changed.tolist())) >= 19 and len(wrong) <= 22
    assert (found.suggested[changed] == truth[changed]).mean() > 0.9
    assert found.accuracy > 0.9


def test_clean_labels_stay_clean() -> None:
    features, labels = blobs(400, 4)
    found = label_scores(features, labels, 4)
    assert found is not None and found.wrong.sum() <= 2


def test_leave_one_out_is_what_fitting_without_the_image_gives() -> None:
    features, labels = blobs(60, 3)
    labels, _ = flipped(labels, 6, 3)
    found = label_scores(features, labels, 3)
    values = prepared(features).astype(np.float64)
    distances = ((values[:, None] - values) ** 2).sum(2)
    kernel = np.exp(-WIDTH / np.median(distances) * distances)
    mean = np.bincount(labels, minlength=3) / 60
    target = np.eye(3)[labels] - mean
    for index in (0, 7, 31):
        rest = np.arange(60) != index
        dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + PENALTY * np.eye(59), target[rest])
        scores = kernel[index, rest] @ dual + mean
        own = scores[labels[index]]
        other = np.delete(scores, labels[index]).max()
        assert found is not None and found.margin[index] == pytest.approx(own - other, abs=1e-4)


def test_many_images_are_judged_by_landmarks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(900, 3)
    labels, changed = flipped(labels, 40, 3)
    exact = label_scores(features, labels, 3)
    monkeypatch.setattr(label_errors, "EXACT", 100)
    monkeypatch.setattr(label_errors, "LANDMARKS", 500)
    found = label_scores(features, labels, 3)
    assert exact is not None and found is not None
    assert np.corrcoef(exact.margin, found.margin)[0, 1] > 0.98
    assert found.wrong[changed].mean() > 0.85


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 2]])
def test_too_little_to_say(labels: list[int]) -> None:
    features = np.random.default_rng(0).normal(0, 1, (4, 8)).astype(np.float32)
    assert label_scores(features, np.array(labels), 4) is None


def test_equal_features_say_nothing() -> None:
    assert label_scores(np.ones((8, 5), np.float32), np.array([0, 1] * 4), 2) is None


def test_strangers_alone_and_in_a_cluster() -> None:
    generator = np.random.default_rng(0)
    usual = np.abs(generator.normal(1, 0.3, (300, 64)))
    cluster = np.abs(generator.normal(0.05, 0.02, (8, 64)))
    cluster[:, :6] += 6
    alone = np.abs(generator.normal(0.05, 0.02, (1, 64)))
    alone[:, 40:44] += 5
    found = find_strangers(np.concatenate([usual, cluster, alone]).astype(np.float32))
    assert found is not None and set(found.order[:9].tolist()) == set(range(300, 309))
    of = dict(zip(found.order.tolist(), found.cluster.tolist()))
    assert len({of[index] for index in range(300, 308)}) == 1 and of[300] >= 0 and of[308] == -1


def test_few_images_have_no_strangers() -> None:
    assert find_strangers(np.ones((5, 3), np.float32)) is None
    found = find_strangers(np.ones((40, 3), np.float32))
    assert found is not None and not len(found.order)


def test_power_is_the_difference_that_so_many_images_tell() -> None:
    found = split_power("test", 300, 0.9)
    assert found.difference is not None
    assert images_needed(0.1, found.difference, level=0.05, power=0.9) <= 300
    assert images_needed(0.1, 0.99 * found.difference, level=0.05, power=0.9) > 300
    assert split_power("val", 8, None).difference is None
    assert "cannot tell" in str(split_power("val", 8, None))
