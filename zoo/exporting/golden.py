"""Golden inputs: images that every machine generates alike, and the logits that a run gave for them.

An exported file carries the logits; whoever verifies the file generates the images again and compares. Nothing here
imports torch or an engine, and no user's photograph travels with a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.exporter import Check
from zoo.exporting.golden_inputs import SIZES, golden_photographs

# Share of the largest logit. Over 15 networks engines and resizes together differed by up to 3e-4 of it, most by 1e-5.
# On a fine-tuned Lite0 a mean that is off by 0.01 moves the logits by 6e-3, a hundredth of one layer doubled by 0.2.
TOLERANCE = 0.003
FLOOR = 1e-4  # of the tolerance, in units of a logit: for networks whose logits are near zero

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What a run answered: for each golden input its logits by class name, in the order of the classes."""

    logits: Mapping[str, Mapping[str, float]]
    tolerance: float  # largest allowed difference of a logit

    @classmethod
    def of(cls, classes: Sequence[str], answers: Logits, tolerance: float = TOLERANCE) -> Golden:
        """Record answers `(inputs, classes)` in the order of `golden_photographs`.

        `tolerance` is a share of the largest logit.
        """
        named = {
            name: {label: float(str(value)) for label, value in zip(classes, row, strict=True)}
            for name, row in zip(SIZES, answers, strict=True)
        }
        return cls(logits=named, tolerance=max(FLOOR, tolerance * float(np.abs(answers).max())))

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
    """Whether `ask` gives the recorded logits for the golden inputs, under the same class names in the same order."""

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
        place = next(index for index, label in enumerate(expected) if label != classes[index])
        return failed(
            f"the class order differs from the golden inputs': class {place} is `{classes[place]}`, "
            f"was `{list(expected)[place]}`"
        )
    if not golden.logits:
        return failed("the file records no golden inputs")
    answers = ask([photographs[name] for name in golden.logits])
    expected_logits = np.array([list(row.values()) for row in golden.logits.values()], dtype=np.float64)
    if answers.shape != expected_logits.shape:
        return failed(f"the network gives {answers.shape[1]} logits for {len(classes)} classes")
    differences = np.abs(answers - expected_logits).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    name, largest = list(golden.logits)[worst], float(differences[worst])
    figures = f"by up to {largest:.2g} (tolerance {golden.tolerance:.2g})"
    if not largest <= golden.tolerance:  # a NaN fails
        return failed(f"the logits of golden input `{name}` differ from the run's {figures}")
    return Check(name="golden inputs", passed=True, detail=f"{len(answers)} inputs, logits differ {figures}")
