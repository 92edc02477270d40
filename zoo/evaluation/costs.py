"""Costs: what each decision costs for each true class, and the decisions of the lowest expected cost.

Elkan 2001, "The foundations of cost-sensitive learning".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import folded, keys
from zoo.data.table import read_table
from zoo.errors import UsageError, ZooError, counted
from zoo.evaluation.statistics import RESAMPLES, wilson_interval
from zoo.predictions import Predictions
from zoo.storage.paths import user_path

Floats = npt.NDArray[np.float64]

EQUAL = 1e-12  # share of the highest cost by which expected costs may differ and count as equal
HIGHEST = 1e15  # a cost; sums and differences of lower ones are exact enough
BLOCK = 10_000_000  # numbers that a bootstrap holds at a time

HINT = (
    "the first row names the decisions, the first column the true classes, as in `true,cat,dog`, `cat,0,1`, `dog,5,0`"
)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Mean costs of two ways to decide, over the same images, with 95 % intervals by the bootstrap.

    Attributes:
        file: name of the file with the matrix.
        matrix: `(classes, classes)`, the cost of each decision (columns) for each true class (rows).
        decisions: `(N,)`, the class of the lowest expected cost for each image.
        mean: cost of an image by these decisions.
        interval: of that.
        argmax: cost of an image where the most probable class is decided for.
        argmax_interval: of that.
        difference: `mean` minus `argmax`; below 0 the decisions by cost are cheaper.
        difference_interval: of that, paired by image.
        changed: number of images whose decision is not the most probable class.
    """

    file: str
    matrix: Floats
    decisions: npt.NDArray[np.int64]
    mean: float
    interval: tuple[float, float]
    argmax: float
    argmax_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    changed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "mean": self.mean,
            "mean_interval_95": list(self.interval),
            "argmax": self.argmax,
            "argmax_interval_95": list(self.argmax_interval),
            "difference": self.difference,
            "difference_interval_95": list(self.difference_interval),
            "changed": self.changed,
        }


def read_costs(file: Path | str, classes: Sequence[str]) -> Floats:
    """The matrix `(classes, classes)` of a CSV file, in the order of `classes`.

    Rows are true classes, columns are decisions, both by name and in any order.

    Raises:
        UsageError: the file cannot be read, is not square, lacks a class or has an unknown one, or a cost is not a
            number from 0 to 1e15.
    """
    path = user_path(file)
    try:
        table = read_table(path.read_bytes(), str(file))
        rows = [tuple(cell.strip() for cell in cells) for _, cells in table.rows()]
    except OSError as error:
        raise UsageError(f"`--costs` `{file}` cannot be read: {error.strerror or error}", hint=HINT) from error
    except ZooError as error:
        raise UsageError(error.message, hint=HINT) from error
    columns = _places(table.columns[1:], classes, file, "column")
    lines = _places([row[0] for row in rows], classes, file, "row")
    found = np.zeros((len(classes), len(classes)))
    for row, line in zip(rows, lines):
        for text, column in zip(row[1:], columns):
            found[line, column] = _cost(text, file, f"`{classes[line]}` decided as `{classes[column]}`")
    return found


def _places(names: Sequence[str], classes: Sequence[str], file: Path | str, what: str) -> list[int]:
    """The index of the class that each row or column is named for."""
    index = {name: place for place, name in enumerate(keys(classes))}
    given = keys(names)
    for name, key in zip(names, given):
        if key not in index:
            alike = [one for one in classes if folded(one) == folded(name)]
            raise UsageError(
                f"{what} `{name}` of `{file}` is no class of the model",
                hint=f"did you mean `{alike[0]}`?" if alike else f"its classes are {' '.join(classes[:20])}",
            )
    if twice := [name for name, key in zip(names, given) if given.count(key) > 1]:
        raise UsageError(f"`{file}` has two {what}s for class `{twice[0]}`", hint="leave one of them")
    if missing := [name for name in classes if keys([name])[0] not in given]:
        raise UsageError(
            f"`{file}` has no {what} for class `{missing[0]}` "
            f"({counted(len(missing), 'class is', 'classes are')} missing), so it is not square",
            hint=HINT,
        )
    return [index[key] for key in given]


def _cost(text: str, file: Path | str, where: str) -> float:
    try:
        if not text.isascii() or "_" in text:  # Python would read `1_000` and digits of other scripts as numbers
            raise ValueError
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and value > HIGHEST:
        raise UsageError(
            f"the cost `{text}` of {where} in `{file}` is above {HIGHEST:g}",
            hint="divide all costs by the same number: no decision changes",
        )
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(
            f"the cost `{text}` of {where} in `{file}` is not a finite number of at least 0",
            hint="subtract the lowest cost of a row from all of it: no decision changes"
            if value < 0 and math.isfinite(value)
            else "write a number such as 1.5",
        )
    return value


def cheapest(shares: Floats, matrix: Floats) -> npt.NDArray[np.int64]:
    """The decision of the lowest expected cost for probabilities `(N, classes)`, `(N,)`; of equal ones the most
    probable class.
    """
    expected = shares @ matrix
    lowest = expected.min(axis=1, keepdims=True)
    good = expected <= lowest + EQUAL * max(float(matrix.max()), 1e-300)
    found: npt.NDArray[np.int64] = np.where(good, shares, -1.0).argmax(axis=1)
    return found


def compare_costs(table: Predictions, matrix: Floats, file: str = "") -> Costs:
    """Costs of the images of a table by the decisions of the lowest expected cost, and by the most probable class."""
    decisions = cheapest(table.probabilities, matrix)
    ours, theirs = matrix[table.labels, decisions], matrix[table.labels, table.predicted]
    low, high = float(matrix.min()), float(matrix.max())
    bounds = ((low, high), (low, high), (low - high, high - low))
    values = np.stack([ours, theirs, ours - theirs])
    intervals = mean_intervals(values, bounds, table.group_numbers)
    return Costs(
        file=file,
        matrix=matrix,
        decisions=decisions,
        mean=float(ours.mean()),
        interval=intervals[0],
        argmax=float(theirs.mean()),
        argmax_interval=intervals[1],
        difference=float((ours - theirs).mean()),
        difference_interval=intervals[2],
        changed=int((decisions != table.predicted).sum()),
    )


def mean_intervals(
    values: Floats, bounds: Sequence[tuple[float, float]], groups: npt.NDArray[np.int64] | None = None
) -> list[tuple[float, float]]:
    """95 % intervals of the means of values `(rows, images)` by the percentile bootstrap, with the same images drawn.

    With `groups` `(images,)`, whole groups are drawn. See `zoo.evaluation.statistics.bootstrap_interval`. Where all
    values of a row are equal, that interval would have no width; it then holds the means that come about if as many
    images as Wilson's interval allows for 0 of all had the lowest or the highest possible value.

    Args:
        values: one row for each mean.
        bounds: the lowest and the highest possible value of each row.
        groups: a number for the group of each image.
    """
    numbers = np.arange(values.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    sums = np.array([np.bincount(numbers, weights=row) for row in values])
    generator = np.random.default_rng(0)
    means = []
    step = max(1, BLOCK // len(sizes))
    for start in range(0, RESAMPLES, step):
        drawn = generator.multinomial(
            len(sizes), np.full(len(sizes), 1 / len(sizes)), size=min(step, RESAMPLES - start)
        )
        means.append((drawn @ sums.T) / (drawn @ sizes)[:, None])
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5), axis=0)
    found = []
    for index, row in enumerate(values):
        value, seldom = float(row.mean()), wilson_interval(0, len(sizes))[1]
        if np.ptp(sums[index] / sizes) == 0:
            least, most = bounds[index]
            found.append((value - seldom * (value - least), value + seldom * (most - value)))
        else:
            found.append((float(low[index]), float(high[index])))
    return found
