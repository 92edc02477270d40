"""Subject of a latency measurement: a target, and the runtime that executes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.catalogue import Entry
from zoo.latency.report import Outcome, Status
from zoo.runtime import Runtime, Workload


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One target on one runtime, with the workload that its worker process is given."""

    label: str  # the target's name in tables: the shortest that is unambiguous
    entry: Entry[Runtime]
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.label} on {self.entry.name}"

    def outcome(self, status: Status, **known: Any) -> Outcome:
        """An outcome of this subject; `known` are its further fields."""
        return Outcome(
            target=str(self.workload.target),
            label=self.label,
            runtime=self.entry.qualified,
            device=self.workload.device,
            status=status,
            **known,
        )
