"""What a split is too small for."""

from __future__ import annotations

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar

from zoo.evaluation.power import too_few


def found(count: int) -> float:
    """How often McNemar's exact test finds ten points: one network is right on a tenth more images."""
    drawn = np.random.default_rng(0).binomial(count, 0.1, 1000)
    values = {one: mcnemar([[0, one], [0, 0]], exact=True).pvalue if one else 1.0 for one in set(drawn.tolist())}
    return float(np.mean([values[one] <= 0.05 for one in drawn.tolist()]))


def test_too_few_are_those_on_which_ten_points_are_often_missed() -> None:
    assert too_few("val", 100) is not None and too_few("val", 101) is None
    assert found(30) < 0.2 and 0.5 < found(60) < 0.8 and found(101) > 0.88


def test_what_is_said_names_the_images_and_what_helps() -> None:
    text = too_few("val", 8) or ""
    assert text.startswith("`val` has 8 photographs, too few") and "45 points wide" in text and "`--folds 5`" in text
    of_folds = too_few("folds", 52) or ""
    assert "`--folds" not in of_folds and "only more photographs help" in of_folds
    assert "1,000 photographs in 12 groups" in (too_few("val", 1000, 12) or "") and too_few("val", 1000, 500) is None
