"""Golden inputs are the same everywhere, and tell a wrong answer from a right one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from messages import refused, unsaid

from zoo import ZooError
from zoo.exporting.golden import Golden, Logits, Pixels, check_golden
from zoo.exporting.golden_inputs import SIZES, golden_photographs

CLASSES = ("ants", "bees", "wasps")
ANSWERS = np.array([[1.5, -2.0, 0.25], [0.0, 1.0, 2.0], [-1.0, 0.5, 0.0], [3.0, 0.1, 0.2]], dtype=np.float32)


def answering(answers: Logits) -> tuple[bool, str]:
    golden = Golden.from_json(Golden.of(CLASSES, ANSWERS).to_json())

    def ask(photographs: Sequence[Pixels]) -> Logits:
        assert [photograph.shape[:2] for photograph in photographs] == list(SIZES.values())
        return answers

    check = check_golden(golden, CLASSES, ask)
    return check.passed, check.detail


def test_golden_inputs_never_change() -> None:
    """Files in the world hold logits for exactly these pixels."""
    digest = hashlib.sha256(b"".join(photograph.tobytes() for photograph in golden_photographs().values()))
    assert digest.hexdigest() == "463e9b2cd6b15406d8c20f0998cec913459f356ae84bd3411eb5195b5a682747"


def test_golden_inputs_are_pictures() -> None:
    for name, photograph in golden_photographs().items():
        assert photograph.shape == (*SIZES[name], 3)
        assert photograph.dtype == np.uint8
        assert photograph.std(axis=(0, 1)).min() > 20
        assert len(np.unique(photograph)) > 100


def test_equal_and_nearly_equal_answers_pass() -> None:
    assert answering(ANSWERS)[0]
    assert answering(ANSWERS + np.float32(0.005))[0]


@pytest.mark.parametrize("wrong", [ANSWERS + np.float32(0.02), ANSWERS[:, ::-1], ANSWERS * np.nan, ANSWERS[:, :2]])
def test_other_answers_fail(wrong: Logits) -> None:
    assert not answering(wrong)[0]


def test_what_is_not_a_number_is_named_and_not_recorded() -> None:
    wrong = ANSWERS.copy()
    wrong[1, 2] = np.inf
    passed, detail = answering(wrong)
    assert not passed and not unsaid(detail, "`portrait`", "`wasps`", "inf")
    with refused(ZooError, "`portrait`", "`wasps`", "inf"):
        Golden.of(CLASSES, wrong)


def test_the_tolerance_is_a_share_of_the_largest_logit_of_either_sign() -> None:
    for scale, expected in ((1.0, 0.003 * 8), (-1.0, 0.003 * 8), (1e-6, 1e-4)):
        logits = np.zeros((len(SIZES), 3), np.float32)
        logits[0] = np.array([8, -2, 1]) * scale
        assert Golden.of(CLASSES, logits).tolerance == pytest.approx(expected)


def test_worst_input_is_named() -> None:
    wrong = ANSWERS.copy()
    wrong[2, 1] += 5
    passed, detail = answering(wrong)
    assert not passed
    assert "golden input `small` differ from the run's by up to 5" in detail


def test_no_golden_inputs_is_a_failure() -> None:
    assert not check_golden(Golden(logits={}, tolerance=1.0), CLASSES, lambda photographs: ANSWERS).passed
