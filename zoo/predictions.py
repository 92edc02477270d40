"""Predictions: path, label and logits of every image of a split. Every metric is computed from this table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zoo.errors import ZooError
from zoo.storage.files import SCHEMA, check_schema, json_text, write_bytes

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A table of N images and C classes, in the order of the split. Its arrays are read-only, since metrics share them.

    Attributes:
        split: Name of the split.
        classes: Names of the classes, in the order of the logits.
        ids: Paths of the images below the data folder.
        labels: `(N,)`, indices into `classes`.
        logits: `(N, C)`.
        groups: Names of the groups that the images are in, such as patients. None: each image is alone.
        unknown: `(N,)`, how strange each image is; above 1 it is called unknown. None: the model has no such score.
    """

    split: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    groups: tuple[str, ...] | None = None
    unknown: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        assert self.groups is None or len(self.groups) == len(self.ids)
        assert self.logits.shape == (len(self.ids), len(self.classes)) and self.labels.shape == (len(self.ids),)
        assert self.unknown is None or self.unknown.shape == (len(self.ids),)
        for name in ("labels", "logits", *(() if self.unknown is None else ("unknown",))):
            object.__setattr__(self, name, _read_only(getattr(self, name).view()))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def group_numbers(self) -> npt.NDArray[np.int64] | None:
        """A number for the group of each image, `(N,)`; None where each image is alone."""
        if self.groups is None:
            return None
        known = {name: number for number, name in enumerate(sorted(set(self.groups)))}
        return _read_only(np.array([known[name] for name in self.groups], np.int64))

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits, `(N, C)`."""
        return _read_only(softmax(self.logits))

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Index of the most probable class of each image, `(N,)`."""
        best: npt.NDArray[np.int64] = self.logits.argmax(axis=1)
        return _read_only(best)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each image is classified correctly, `(N,)`."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return _read_only(right)

    def save(self, file: Path) -> None:
        """Write a safetensors file: the tensors `logits`, `labels` and, where there are any, the scores `unknown`.

        Ids, classes and groups are in its header.

        Raises:
            ZooError: the file cannot be written.
        """
        header = {
            "schema": str(SCHEMA),
            "split": self.split,
            "classes": json_text(self.classes, ascii_only=True),
            "ids": json_text(self.ids, ascii_only=True),
        }
        if self.groups is not None:
            header["groups"] = json_text(self.groups, ascii_only=True)
        tensors: dict[str, npt.NDArray[Any]] = {"logits": self.logits, "labels": self.labels}
        if self.unknown is not None:
            tensors["unknown"] = self.unknown
        write_bytes(file, save(tensors, metadata=header))

    @classmethod
    def load(cls, file: Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            ZooError: the file is missing or damaged, or has a newer schema.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                header = opened.metadata() or {}
                check_schema(int(header.get("schema", 0)), file)
                table = cls(
                    split=header["split"],
                    classes=tuple(json.loads(header["classes"])),
                    ids=tuple(json.loads(header["ids"])),
                    labels=opened.get_tensor("labels"),
                    logits=opened.get_tensor("logits"),
                    groups=tuple(json.loads(header["groups"])) if "groups" in header else None,
                    unknown=opened.get_tensor("unknown") if "unknown" in opened.keys() else None,  # noqa: SIM118
                )
                broken = not_finite(table.logits, table.ids, table.classes)
                if broken is None and table.unknown is not None and not np.isfinite(table.unknown).all():
                    broken = "a score of `unknown` is not finite"
                if broken is not None:
                    raise ValueError(broken)
                return table
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ZooError(
                f"predictions `{file}` cannot be read: {error}", hint="`zoo evaluate RUN` writes them again"
            ) from error


def pooled(tables: Sequence[Predictions], split: str) -> Predictions:
    """One table of the rows of several, which have no image in common, in the order of ids.

    Args:
        tables: of the same classes.
        split: name of the whole.
    """
    ids = [name for table in tables for name in table.ids]
    assert len(set(ids)) == len(ids) and len({table.classes for table in tables}) == 1
    order = sorted(range(len(ids)), key=ids.__getitem__)
    grouped = any(table.groups is not None for table in tables)
    groups = [name for table in tables for name in (table.groups or tuple(f"image {one} {one}" for one in table.ids))]
    return Predictions(
        split=split,
        classes=tables[0].classes,
        ids=tuple(ids[index] for index in order),
        labels=np.concatenate([table.labels for table in tables])[order],
        logits=np.concatenate([table.logits for table in tables])[order],
        groups=tuple(groups[index] for index in order) if grouped else None,
    )


def _read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    array.flags.writeable = False
    return array


def not_finite(logits: npt.NDArray[np.floating[Any]], ids: Sequence[str], classes: Sequence[str]) -> str | None:
    """The first of the logits `(N, classes)` that is not finite, in words; None where all are."""
    places = np.argwhere(~np.isfinite(logits))
    if not len(places):
        return None
    row, column = (int(place) for place in places[0])
    return f"the logit of `{ids[row]}` for class `{classes[column]}` is {float(logits[row, column])}"


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities `(N, classes)` from logits of the same shape, computed in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities
