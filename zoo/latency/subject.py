"""Contender: a target and a runtime that take part in a latency measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.catalogue import Entry
from zoo.latency.report import Outcome, Status
from zoo.runtime import Runtime, Workload


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of those that take turns."""

    label: str  # how the target is called in tables: as short as it is unambiguous
    entry: Entry[Runtime]
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.label} on {self.entry.name}"

    def outcome(self, status: Status, **known: Any) -> Outcome:
        """What became of it; `known` are further fields of the outcome."""
        return Outcome(
            target=str(self.workload.target),
            label=self.label,
            runtime=self.entry.qualified,
            device=self.workload.device,
            status=status,
            **known,
        )
