"""The process in which a runtime is checked. It imports what the runtime needs and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.latency.worker import make_batch
from zoo.row import check_returned
from zoo.runtime import SESSION, Session, Workload
from zoo.target import load_target


class RuntimeWorker:
    """Holds the session; each public method answers one request."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def load(self, target: str, workload: dict[str, Any]) -> dict[str, Any]:
        """Open the session; the answer reports its provider and its input."""
        session: Session = load_target(target)(Workload(**{**workload, "target": Path(workload["target"])}))
        check_returned(session, SESSION, target, "a runtime")
        self._session = session
        return {
            "provider": session.provider,
            "dtype": session.input.dtype,
            "shape": list(session.input.shape),
            "fixed_batch": session.input.fixed_batch,
        }

    def call(self, count: int) -> dict[str, Any]:
        """What two callers return for a batch, one of them twice, and for each image alone if that is allowed."""
        assert self._session is not None
        batch = make_batch(self._session.input, count)
        before = batch.copy()
        first, other = self._session.prepare(batch), self._session.prepare(batch)
        returned = first()
        answers = [logits_of(returned)]  # copied before the next call, which may write to the same memory
        answers += [logits_of(call()) for call in (other, first)]
        changed, alone = not np.array_equal(before, batch), []
        if self._session.input.fixed_batch is None:
            alone = [logits_of(self._session.prepare(before[place : place + 1].copy())()) for place in range(count)]
        return {
            "returned": type(returned).__name__,
            "first": answers[0],
            "other": answers[1],
            "again": answers[2],
            "alone": alone,
            "changed": changed,
        }


def logits_of(returned: object) -> list[Any] | None:
    """The array that a call returned, or the first of several, as numbers; None where there is none."""
    if not hasattr(returned, "__array__"):
        if isinstance(returned, (list, tuple)):
            returned = returned[0] if returned else None
        elif isinstance(returned, Mapping) or hasattr(returned, "values"):  # OpenVINO's own mapping is no `Mapping`
            returned = next(iter(returned.values()), None)
    if not hasattr(returned, "__array__"):
        return None
    found: npt.NDArray[Any] = np.asarray(returned)
    numbers: list[Any] = found.astype(np.float64).tolist()
    return numbers if found.ndim == 2 else None
