"""Latency report: figures with intervals, an outcome for each subject, and the conditions of the measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.evaluation.statistics import trimmed_mean_lower_bound

SCHEMA = 1
CONFIDENCE = 0.95
# Two processes of one model differ by a few per cent for as long as they live, because their memory lies elsewhere.
# More rounds do not average that away. A difference below the larger of this and the noise floor is not significant.
LEAST_FLOOR = 0.03
# Share of the rounds that the test for a difference leaves out at either end. Measured while other programs ran: of 50
# pairs in which one subject took a tenth longer, 45 were found so, and 34 without; of 50 equal pairs, none either way.
TRIMMED = 0.2

RESAMPLES = 2000  # the ends of a 95 per cent interval then vary by about a tenth of its width
P99_CALLS = 100  # among fewer, no call lies beyond the 99th percentile

Status = Literal["measured", "failed", "unavailable"]
CallSeconds = npt.NDArray[np.float64]  # seconds of each call: a row for each slot, a column for each call in it


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 per cent interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The figures of one subject at one batch size. Times are seconds per call, memory is bytes."""

    batch_size: int
    calls: int
    p50: Estimate
    p90: Estimate
    p99: Estimate
    images_per_second: Estimate
    fastest: bool  # by p50 at this batch size
    told_apart: bool  # whether it is significantly slower than the fastest, by more than the noise floor
    ratio: Estimate  # of p50 to the fastest subject's, paired by round
    memory: int | None  # the largest resident memory of the worker so far, libraries included
    device_memory: int | None  # on the CUDA device, beyond the context
    first_call: float  # which compiles, tunes and allocates; not part of the other figures
    warmup_calls: int
    notes: tuple[str, ...] = ()
    call_seconds: CallSeconds = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the single calls."""
        return {name: value for name, value in asdict(self).items() if name != "call_seconds"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one subject: measured, failed, or unavailable on this machine."""

    target: str
    label: str
    runtime: str  # `provider/name`, as the plugin registered it
    device: str
    status: Status
    reason: str = ""  # why it was not measured
    hint: str | None = None
    log: str = ""  # the last lines that its process printed, where it failed
    provider: str = ""  # what really executed it, as the session reports
    input: str = ""  # dtype and shape of a batch
    load_seconds: float | None = None
    notes: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def name(self) -> str:
        """The runtime's short name."""
        return self.runtime.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "measurements": [measurement.to_json() for measurement in self.measurements]}


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """All outcomes of one measurement, with the machine, the versions and the method."""

    timed: str  # what one call does, in a sentence
    with_preprocess: bool
    batch_sizes: tuple[int, ...]
    threads: int
    seconds: float  # budget of timed calls for each subject and batch size
    started: str  # ISO 8601, UTC
    machine: dict[str, Any]
    versions: dict[str, str]
    others: float  # processors that other processes kept busy during the measurement slots, on average
    callers: int  # concurrent callers; each calls again as soon as its call returns
    noise_floor: dict[int, float]  # by batch size: the share by which two processes of the same subject differed
    outcomes: tuple[Outcome, ...]

    @property
    def measured(self) -> tuple[Outcome, ...]:
        """The outcomes of the subjects that have figures."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "measured")

    def to_json(self) -> dict[str, Any]:
        """JSON values: times in seconds, memory in bytes."""
        return {
            "schema": SCHEMA,
            "timed": self.timed,
            "with_preprocess": self.with_preprocess,
            "batch_sizes": list(self.batch_sizes),
            "threads": self.threads,
            "seconds": self.seconds,
            "started": self.started,
            "confidence": CONFIDENCE,
            "machine": self.machine,
            "versions": self.versions,
            "others": self.others,
            "callers": self.callers,
            "noise_floor": {str(size): share for size, share in self.noise_floor.items()},
            "contenders": [outcome.to_json() for outcome in self.outcomes],
        }


@dataclass(frozen=True)
class Figures:
    """Estimates of one subject at one batch size. Times are seconds per call."""

    p50: Estimate
    p90: Estimate
    p99: Estimate
    images_per_second: Estimate
    ratio: Estimate


def is_slower(times: CallSeconds, fastest: CallSeconds, floor: float) -> bool:
    """Whether a subject is slower than the fastest by more than the share `floor`, with 97.5 per cent confidence.

    The test takes the logarithm of the ratio of both medians in each round, and the trimmed mean over rounds (Tukey and
    McLaughlin 1963). Other programs slow one or two slots of ten by a large factor, which would dominate a plain mean.
    """
    ratios = np.log(np.median(times, axis=1) / np.median(fastest, axis=1))
    if len(ratios) < 2:
        return False  # a single round has no spread to compare with
    return bool(trimmed_mean_lower_bound(ratios, TRIMMED) > np.log1p(floor))


def noise_floor_between(times: CallSeconds, twin: CallSeconds) -> float:
    """The share by which the medians of two processes of the same subject differ."""
    return float(np.expm1(abs(np.log(np.median(times) / np.median(twin)))))


def estimate(
    times: CallSeconds, fastest: CallSeconds, slot_seconds: npt.NDArray[np.float64], batch_size: int
) -> Figures:
    """Percentiles, throughput and the ratio to the fastest subject, with percentile bootstrap intervals.

    The bootstrap draws whole slots, not single calls, because calls of one slot resemble each other (Efron and
    Tibshirani 1993, section 8.6, on blocks). For the ratio it draws the same rounds of both subjects, because both were
    measured in the same rounds.

    Args:
        times: seconds of each call `(slots, calls)`.
        fastest: those of the fastest subject, with as many slots.
        slot_seconds: seconds of each slot `(slots,)`, from its first call to the end of its last; callers may overlap.
        batch_size: images per call.
    """
    slots = len(times)
    assert slots == len(fastest)
    draws = np.random.default_rng(0).integers(0, slots, (RESAMPLES, slots))
    drawn = times[draws].reshape(RESAMPLES, -1)
    levels = (0.5, 0.9, 0.99)
    values = np.quantile(times, levels)
    resampled = np.quantile(drawn, levels, axis=1)
    p50, p90, p99 = (_with_interval(float(value), samples) for value, samples in zip(values, resampled))
    images = batch_size * times.shape[1]  # per slot
    rate = _with_interval(images / float(slot_seconds.mean()), images / slot_seconds[draws].mean(axis=1))
    fastest_p50 = np.median(fastest[draws].reshape(RESAMPLES, -1), axis=1)
    ratio = _with_interval(float(values[0] / np.median(fastest)), resampled[0] / fastest_p50)
    return Figures(p50, p90, p99, rate, ratio)


def _with_interval(value: float, samples: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
