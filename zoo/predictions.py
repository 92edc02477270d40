"""Predictions: path, label and logits of every image of a split. All figures are computed from this one table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zoo.errors import ZooError
from zoo.storage.files import SCHEMA, check_schema, write_bytes


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A table of N images and C classes. `labels` are indices into `classes`; rows are in the split's order."""

    split: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]  # paths below the data folder
    labels: npt.NDArray[np.int64]  # N
    logits: npt.NDArray[np.float32]  # N x C

    def __post_init__(self) -> None:
        assert self.logits.shape == (len(self.ids), len(self.classes)) and self.labels.shape == (len(self.ids),)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits: `(N, C)`."""
        return softmax(self.logits)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Indices of the most probable classes: `(N,)`."""
        best: npt.NDArray[np.int64] = self.logits.argmax(axis=1)
        return best

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each image is right: `(N,)`."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    def save(self, file: Path) -> None:
        """Write as safetensors: tensors `logits` and `labels`, ids and classes in the header."""
        header = {
            "schema": str(SCHEMA),
            "split": self.split,
            "classes": json.dumps(self.classes),
            "ids": json.dumps(self.ids),
        }
        write_bytes(file, save({"logits": self.logits, "labels": self.labels}, metadata=header))

    @classmethod
    def load(cls, file: Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            ZooError: the file is damaged, or of a newer schema.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                header = opened.metadata() or {}
                check_schema(int(header.get("schema", 0)), file)
                return cls(
                    split=header["split"],
                    classes=tuple(json.loads(header["classes"])),
                    ids=tuple(json.loads(header["ids"])),
                    labels=opened.get_tensor("labels"),
                    logits=opened.get_tensor("logits"),
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ZooError(
                f"predictions `{file}` cannot be read: {error}", hint="`zoo evaluate RUN` makes them anew"
            ) from error


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities `(N, classes)` of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities
