"""One path classifies images, for evaluation, prediction and checks: in order, in batches, bad ones named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused

from zoo import Preprocess, Sample, ZooError
from zoo.data.image import BadImage
from zoo.dataset import BytesSource
from zoo.inference import prediction
from zoo.inference.prediction import BATCH, check_scores, predict_all
from zoo.predictor import Answers


class Brightness:
    """A predictor whose logits are an image's first pixel."""

    classes = ("a", "b", "c")
    preprocess = Preprocess()
    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        self.batches.append(len(photographs))
        return np.array([photograph[0, 0] for photograph in photographs], np.float32)


def sample(number: int, good: bool) -> Sample:
    pixels = np.full((2, 2, 3), number % 256, np.uint8)
    return Sample(str(number), "a", pixels if good else BytesSource(f"bad {number}", lambda: b"x"))


@pytest.mark.parametrize("workers", [1, 3])
@given(flags=st.lists(st.booleans(), max_size=3 * BATCH))
def test_every_sample_comes_back_in_order(workers: int, flags: list[bool]) -> None:
    predictor, advanced = Brightness(), list[int]()
    samples = [sample(number, good) for number, good in enumerate(flags)]
    found = list(predict_all(predictor, iter(samples), workers=workers, advance=advanced.append))
    assert [one for one, _ in found] == samples
    for number, (good, (_, result)) in enumerate(zip(flags, found)):
        if good:
            assert not isinstance(result, BadImage) and result.unknown is None
            assert (result.logits == number).all() and result.logits.shape == (3,)
        else:
            assert isinstance(result, BadImage) and f"bad {number}" in str(result)
    assert sum(advanced) == sum(predictor.batches) == sum(flags)
    assert all(size == BATCH for size in predictor.batches[:-1])


@given(
    broken=st.integers(0, 2 * BATCH),
    column=st.integers(0, 2),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    count=st.integers(1, 2 * BATCH),
)
def test_what_is_not_a_number_never_becomes_a_label(broken: int, column: int, value: float, count: int) -> None:
    class Damaged(Brightness):
        def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
            found = super().logits(photographs)
            found[found[:, 0] == broken, column] = value
            return found

    samples = [sample(number, True) for number in range(count)]
    if broken >= count:
        assert len(list(predict_all(Damaged(), samples, workers=1))) == count
        return
    with refused(ZooError, f"`{broken}`", f"`{'abc'[column]}`", str(value)):
        list(predict_all(Damaged(), samples, workers=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_no_answer(value: float) -> None:
    """An infinite one would be called unknown, or known, whatever the image."""
    answers = Answers(np.zeros((3, 2), np.float32), np.array([0.5, value, 2], np.float32))
    with refused(ZooError, "damaged", "`unknown` of `b`", str(value)):
        check_scores(answers, True, "abc")


def test_images_are_classified_as_they_come(tmp_path: Path) -> None:
    """A caller sees the first batch before the last image is decoded: a million images take no more memory than few."""
    taken = []

    def many() -> object:
        for number in range(1000):
            taken.append(number)
            yield sample(number, True)

    found = predict_all(Brightness(), many(), workers=2)  # type: ignore[arg-type]
    next(found)
    assert len(taken) <= BATCH + 2 * 2 + 1
    found.close()  # type: ignore[attr-defined]


def test_a_batch_ends_where_it_has_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "BATCH_PIXELS", 12)
    predictor = Brightness()
    assert len(list(predict_all(predictor, [sample(number, True) for number in range(7)], workers=1))) == 7
    assert predictor.batches == [3, 3, 1]  # of four pixels each
