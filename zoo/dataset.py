"""Dataset: labelled images with splits that have roles, and classes that have names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")

LOCKED = "locked"  # `locked:DATA`


@dataclass(frozen=True)
class Sample:
    """One labelled image: where its pixels are (a file, or `(H, W, 3)` uint8), and what they show."""

    id: str  # unique in its dataset: the path below the data folder, with forward slashes
    label: str  # a class name
    source: Path | npt.NDArray[np.uint8] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Images:
    """An opened dataset.

    `splits` holds `train` and at least one of `val` and `test`. `rejected` are files that are no photographs by
    their kind, with the reason; files that turn out to be broken are found by the scan.
    """

    name: str
    classes: tuple[str, ...]  # sorted
    splits: Mapping[Role, tuple[Sample, ...]]
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # what was decided while opening, for the user: how it was split

    @property
    def reported(self) -> Role:
        """The split whose figures a training run reports: `val` where there is one, else `test`."""
        return "val" if "val" in self.splits else "test"

    @property
    def may_choose(self) -> bool:
        """Whether anything may be chosen on `val`: only where a `test` split remains to be reported on."""
        return "val" in self.splits and "test" in self.splits


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A row of the catalogue. `open` is `(argument, split_seed) -> Images`; `argument` is what follows the colon."""

    name: str
    summary: str
    open: str | Callable[[str, int], Images] = field(repr=False)


__getattr__ = lazy_attributes(
    __name__,
    {name: f"zoo.data.opening:{name}" for name in ("absolute", "choose_split", "open_images")},
)
