"""Golden logits: the logits that a run computed for the golden inputs, which every machine generates identically.

An exported file contains these logits. To verify the file, the golden inputs are generated again and the file's logits
are compared. The file thus contains no image of the user. This module imports neither torch nor an inference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import ZooError, counted
from zoo.exporter import Check
from zoo.exporting.golden_inputs import SIZES, golden_photographs
from zoo.predictions import not_finite

# Share of the largest logit. Over 15 networks, engines and resizes together differed by up to 3e-4 of it, most by 1e-5.
# On a fine-tuned Lite0, a mean that is off by 0.01 moves the logits by 6e-3; doubling a hundredth of one layer, by 0.2.
TOLERANCE = 0.003
FLOOR = 1e-4  # smallest tolerance of a logit, for networks whose logits are near zero
# Rounding of fp32 moves logits by 1e-6 of the largest, but engines round a resize up or down where a pixel lies between
# two grey levels. In a small or random network that moved logits by up to 4e-3 of the largest. So what the file's own
# resize moves them by is measured, and so many times of it is allowed: other processors round other pixels
SPARE = 3.0

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Logits that a run gave for each golden input, by class name and in the order of the classes."""

    logits: Mapping[str, Mapping[str, float]]
    tolerance: float  # largest allowed difference of a logit

    @classmethod
    def of(
        cls, classes: Sequence[str], answers: Logits, tolerance: float = TOLERANCE, resized: Logits | None = None
    ) -> Golden:
        """Record logits `(inputs, classes)`.

        Args:
            classes: class names, in the order of the logits.
            answers: logits of the golden inputs, in the order of `golden_photographs`.
            tolerance: largest allowed difference, as a share of the largest logit.
            resized: what the same network gives for the same inputs as the file resizes them, where that differs from
                the run's resize by no more than engines round differently. None: the file does not resize.

        Raises:
            ZooError: a logit is not finite.
        """
        broken = not_finite(answers, list(SIZES), classes)
        if broken is not None:
            raise ZooError(
                f"the golden inputs cannot be recorded: {broken}",
                hint="the weights are damaged, or the numbers overflow: fp32 holds larger ones than fp16",
            )
        named = {
            name: {label: float(str(value)) for label, value in zip(classes, row, strict=True)}
            for name, row in zip(SIZES, answers, strict=True)
        }
        rounded = 0.0 if resized is None else float(np.abs(resized.astype(np.float64) - answers).max())
        return cls(logits=named, tolerance=max(FLOOR, tolerance * float(np.abs(answers).max()), SPARE * rounded))

    def to_json(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance, "logits": {name: dict(row) for name, row in self.logits.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Golden:
        logits = {
            str(name): {str(label): float(value) for label, value in row.items()}
            for name, row in data["logits"].items()
        }
        return cls(logits=logits, tolerance=float(data["tolerance"]))


def check_golden(golden: Golden, classes: Sequence[str], ask: Callable[[Sequence[Pixels]], Logits]) -> Check:
    """Check that a file gives the recorded logits for the golden inputs, with the same class names in the same order.

    Args:
        golden: the recorded logits.
        classes: class names of the file.
        ask: computes the file's logits `(N, classes)` of N images.
    """

    def failed(detail: str) -> Check:
        return Check(name="golden inputs", passed=False, detail=detail)

    photographs = golden_photographs()
    for name, expected in golden.logits.items():
        if name not in photographs:
            return failed(f"golden input `{name}` is not known to this version of zoo")
        if list(expected) == list(classes):
            continue
        if sorted(expected) != sorted(classes):
            other = sorted(set(classes) ^ set(expected))
            return failed(f"the class names are not those of the golden inputs: `{other[0] if other else name}`")
        first = next(index for index, label in enumerate(expected) if label != classes[index])
        return failed(
            f"the class order differs from the golden inputs': class {first} is `{classes[first]}`, "
            f"was `{list(expected)[first]}`"
        )
    if not golden.logits:
        return failed("the file records no golden inputs")
    answers = ask([photographs[name] for name in golden.logits])
    expected_logits = np.array([list(row.values()) for row in golden.logits.values()], dtype=np.float64)
    if answers.shape != expected_logits.shape:
        return failed(
            f"the network gives {counted(answers.shape[1], 'logit')} for {counted(len(classes), 'class', 'classes')}"
        )
    broken = not_finite(answers, list(golden.logits), classes)
    if broken is not None:
        return failed(broken)
    differences = np.abs(answers - expected_logits).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    name, largest = list(golden.logits)[worst], float(differences[worst])
    figures = f"by up to {largest:.2g} (tolerance {golden.tolerance:.2g})"
    if not largest <= golden.tolerance:  # a NaN fails
        return failed(f"the logits of golden input `{name}` differ from the run's {figures}")
    return Check(name="golden inputs", passed=True, detail=f"{len(answers)} inputs, logits differ {figures}")
