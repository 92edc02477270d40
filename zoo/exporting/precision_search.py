"""Precision search: of a run's files in several precisions, find the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.exporter import Exporter
from zoo.exporting.parity import Parity

if TYPE_CHECKING:
    from zoo.plugin import Plugins

TIMED = 1.0  # budget of timed calls for each file, in seconds


@dataclass(frozen=True, kw_only=True)
class PrecisionCandidate:
    """A run's file in one precision: whether it passed, and what it costs."""

    precision: str
    parity: Parity | None = None
    size: int | None = None  # bytes
    latency: tuple[float, float, float] | None = None  # p50 of one image in seconds, with its 95 % interval
    told_apart: bool = False  # whether it is significantly slower than the fastest
    failure: str = ""  # why there is no such file

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "parity": self.parity.to_json() if self.parity is not None else None,
            "bytes": self.size,
            "latency": list(self.latency) if self.latency is not None else None,
            "failure": self.failure or None,
        }


def fastest(candidates: Sequence[PrecisionCandidate]) -> PrecisionCandidate:
    """The candidate with the lowest latency; fp32 where it was not timed or is not significantly slower."""
    plain = candidates[0]
    if plain.precision == "fp32" and not plain.told_apart:
        return plain
    timed = [one for one in candidates if one.latency is not None]
    return min(timed, key=lambda one: one.latency[0] if one.latency else 0.0, default=plain)


def time_candidates(
    candidates: Sequence[PrecisionCandidate], files: Mapping[str, Path], exporter: Exporter, plugins: Plugins
) -> list[PrecisionCandidate]:
    """Add the latency of one image to the candidates that passed, interleaved and on the device of the parity check."""
    from zoo.latency.measurement import bench

    first = next(one.parity for one in candidates if one.parity is not None)
    device = "cuda" if "CUDA" in first.provider else "cpu"
    paths = [files[one.precision] for one in candidates if not one.failure]
    report = bench(
        paths,
        runtimes=[exporter.runtimes[device]] if device in exporter.runtimes else None,
        device=device,
        batch_sizes=(1,),
        seconds=TIMED,
        plugins=plugins,
    )
    found = {outcome.target: outcome.measurements[0] for outcome in report.measured}

    def with_latency(one: PrecisionCandidate) -> PrecisionCandidate:
        measured = found.get(str(files[one.precision]))
        if measured is None:
            return one
        p50 = measured.p50
        return replace(one, latency=(p50.value, p50.low, p50.high), told_apart=measured.told_apart)

    return [with_latency(one) for one in candidates]
