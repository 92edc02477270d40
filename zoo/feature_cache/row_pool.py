"""Row pool: outputs of a frozen prefix by image, in memory, for runs that share images but not sets of them: folds.

The store keeps rows by sets of images, so that it finds them only for the same set. Of K folds, each has another set,
and every image is in K - 1 of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch

from zoo.storage.files import json_text

# Bytes of rows: those of 100,000 images with 1,280 features. Rows that do not fit are computed again by each fold
BUDGET = 2**29

Rows = tuple[torch.Tensor, ...]


class RowPool:
    """Rows of single images by what their bits depend on.

    Attributes:
        bytes: of all rows.
        engines: what computes them, by the digest of the prefix, so that all runs take the same.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._rows: dict[str, Rows] = {}
        self.bytes = 0
        self.engines: dict[str, str] = {}

    def find(self, key: str) -> Rows | None:
        """The row of one image, tensors without a dimension of images; None where there is none."""
        return self._rows.get(key)

    def add(self, key: str, row: Rows) -> None:
        """Keep a row, if there is room for it."""
        size = sum(part.numel() * part.element_size() for part in row)
        if key not in self._rows and self.bytes + size <= self._budget:
            self._rows[key] = tuple(part.detach().cpu().clone() for part in row)
            self.bytes += size


def row_key(key: Mapping[str, Any], content: str, pixels: Mapping[str, Any]) -> str:
    """What identifies a row: key of the network, content of the image, and how its pixels are made."""
    return sha256(json_text([key, content, pixels], sort_keys=True, ascii_only=True).encode()).hexdigest()
