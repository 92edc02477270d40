"""Memory of the splits that were checked, in the store of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zoo.storage.tensor_store import Store

# Bytes of the store below which nothing is remembered, so that no features have to make room for it
LEAST = 2**20


@dataclass(frozen=True)
class CheckMemory:
    """Remembers which splits have passed their checks.

    Attributes:
        store: Where it is kept.
        key: What a check depends on besides the split: versions, processor and code.
    """

    store: Store
    key: Mapping[str, Any]

    def seconds(self, digest: str) -> float | None:
        """The time of the prefix per image that a split with this digest was measured with; None if it is not known."""
        found = self.store.read(self._key(digest))
        value = None if found is None else found.get("seconds")
        return float(value) if value is not None and value.numel() == 1 else None

    def passed(self, digest: str, seconds: float) -> None:
        """Remember that a split has passed, and the time of its prefix per image in seconds."""
        if self.store.failure is None and self.store.budget >= LEAST:
            self.store.write(self._key(digest), {"seconds": torch.tensor(seconds, dtype=torch.float64)})

    def _key(self, digest: str) -> dict[str, Any]:
        return {**self.key, "kind": "check of a split", "split": digest}
