"""Strategy suggestion: which stages to train, from linear probes after each stage and the distance of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.advice.borrowed_distance import BorrowedDistance
from zoo.errors import counted
from zoo.evaluation.significance import p_value
from zoo.evaluation.statistics import holm, paired_difference_interval

LEVEL = 0.05
# Accuracy that stages may add and still count as adding nothing; the probe is too rough a measure for less
MARGIN = 0.02
SATURATED = 0.97  # accuracy of a probe above which no strategy can be found significantly better


@dataclass(frozen=True, kw_only=True)
class StageAdvice:
    """Estimates from the outputs of one stage of a network.

    Attributes:
        name: Name of the stage.
        depth: Share of the network's stages up to and with this one.
        width: Number of features.
        accuracy: Accuracy of a linear probe on the stage's outputs.
        interval: 95 % interval of that accuracy.
        distance: Distance from the pretraining data in nats. None: not known.
    """

    name: str
    depth: float
    width: int
    accuracy: float
    interval: tuple[float, float]
    distance: float | None


def suggest_strategy(
    stages: Sequence[StageAdvice],
    right: Mapping[str, npt.NDArray[np.bool_]],
    borrowed: BorrowedDistance | None = None,
) -> tuple[str, str]:
    """The strategy that the probes and the distance of the data suggest, and the reason in one sentence.

    Args:
        stages: probes and distances, from input to output.
        right: which images the probe of each stage classified correctly, by its name; under `features`, the probe on
            the head's inputs.
        borrowed: the distance by other networks, which counts where no stage has one.
    """
    from zoo.advice.domain_distance import FAR, NEAR

    final = right["features"]
    accuracy = float(final.mean())
    known = [one.distance for one in stages if one.distance is not None]
    distance = float(np.mean(known)) if known else borrowed.value if borrowed is not None else None
    measured = str(borrowed) if not known and borrowed is not None else f"{distance or 0:.2f}"
    best = _better_stage(stages, right)
    if best is not None:
        return (
            f"truncate:{len(stages) - 1 - stages.index(best)}",
            f"a linear probe has accuracy {best.accuracy:.3f} after `{best.name}` and {accuracy:.3f} before the head: "
            "the stages in between lose information that these photographs need",
        )
    words = f"a linear probe on its features has accuracy {accuracy:.3f}"
    if distance is not None and distance <= NEAR:
        return "linear", f"{words}, and the photographs are similar to its pretraining data (distance {measured})"
    if accuracy >= SATURATED:
        return "linear", f"{words}, and too few photographs are wrong to show a gain"
    if len(stages) == 1:
        return "linear", f"{words}, and it has no further stages that could be trained"
    if distance is not None and distance >= FAR:
        return "full", f"{words}, and the photographs differ from its pretraining data (distance {measured})"
    return _by_profile(stages, right, words)


def _better_stage(stages: Sequence[StageAdvice], right: Mapping[str, npt.NDArray[np.bool_]]) -> StageAdvice | None:
    """The best of the earlier stages that are significantly better than the head's inputs; None: there is none.

    Holm's correction over all earlier stages keeps the chance of a false one below 5 %, however many stages there are.
    """
    final = right["features"]
    adjusted = holm([p_value(right[one.name][None], final[None]) for one in stages[:-1]])
    better = [one for one, value in zip(stages, adjusted) if value <= LEVEL and one.accuracy > float(final.mean())]
    return max(better, key=lambda one: one.accuracy, default=None)


def _by_profile(
    stages: Sequence[StageAdvice], right: Mapping[str, npt.NDArray[np.bool_]], words: str
) -> tuple[str, str]:
    """The strategy that the probes alone suggest: train the last stages that add at most `MARGIN`.

    A stage is tested against the last one for non-inferiority, the later ones first and up to the first that fails.
    Such a sequence of tests needs no correction (Maurer, Hothorn and Lehmacher 1995, "Multiple comparisons in drug
    clinical trials and preclinical assays: a-priori ordered hypotheses").
    """
    last = right[stages[-1].name]
    flat = len(stages) - 1
    low, high = 0.0, 0.0
    while flat > 0:
        low, high = paired_difference_interval(last, right[stages[flat - 1].name])
        if high > MARGIN:
            break
        flat -= 1
    trained = len(stages) - 1 - flat
    if trained:
        return (
            f"partial:{trained}",
            f"{words}; the stages after `{stages[flat].name}` add {100 * MARGIN:g} points at most (95 % interval), so "
            "they are worth training",
        )
    before = stages[-2].name
    if low > 0:
        return "full", f"{words}, and its last stage adds to that after `{before}`, so all are worth training"
    return (
        "linear",
        f"{words}; {counted(len(last), 'photograph does', 'photographs do')} not tell whether the last stage adds to "
        f"that after `{before}`: it may be up to {counted(round(100 * high), 'point')}, so try `partial:1` and `full` "
        "as well",
    )
