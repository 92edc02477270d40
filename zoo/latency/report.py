"""What a latency measurement found: figures with intervals, outcomes, and all that they depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.evaluation.statistics import trimmed_mean_lower_bound

SCHEMA = 1
CONFIDENCE = 0.95
# Two processes of one model differ by some per cent from first to last, by where their memory lies; no number of turns
# averages that away. A difference within the larger of this and the noise floor is none.
LEAST_FLOOR = 0.03
# Share of the rounds that is left out at either end when contenders are told apart. Of 50 pairs of which one took a
# tenth longer, with other work about, 45 were told, and 34 without; of 50 equal ones none, either way
TRIMMED = 0.2

RESAMPLES = 2000  # the ends of a 95 per cent interval then vary by about a tenth of its width
P99_CALLS = 100  # fewer hold no call beyond the 99th percentile

Status = Literal["measured", "failed", "unavailable"]
Turns = npt.NDArray[np.float64]  # seconds per call: one row a turn, one column a call


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 per cent interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The figures of one contender at one batch size. Times are seconds per call, memory is bytes."""

    batch_size: int
    calls: int
    p50: Estimate
    p90: Estimate
    p99: Estimate
    images_per_second: Estimate
    fastest: bool  # by p50 at this batch size
    told_apart: bool  # slower than the fastest by more than chance and the noise floor explain
    ratio: Estimate  # of p50 to the fastest contender's, paired turn by turn
    memory: int | None  # the largest resident memory of the worker so far, libraries included
    device_memory: int | None  # on the CUDA device, beyond the context
    first_call: float  # compiles, tunes, allocates; not part of the figures
    warmup_calls: int
    notes: tuple[str, ...] = ()
    turns: Turns = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the single calls."""
        return {name: value for name, value in asdict(self).items() if name != "turns"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one contender: measured, failed on the way, or not available here."""

    target: str
    label: str
    runtime: str  # `provider/name`, as the plugin registered it
    device: str
    status: Status
    reason: str = ""  # why it was not measured
    hint: str | None = None
    log: str = ""  # the last lines that its process printed, if it failed
    provider: str = ""  # what really executed
    input: str = ""  # dtype and shape of what was sent
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

    timed: str  # what one call does, in words
    with_preprocess: bool
    batch_sizes: tuple[int, ...]
    threads: int
    seconds: float  # of timed calls that each contender was given per batch size
    started: str  # ISO 8601, UTC
    machine: dict[str, Any]
    versions: dict[str, str]
    others: float  # processors that other processes kept busy during the turns, on average
    callers: int  # that call at once, each after its own last answer
    noise_floor: dict[int, float]  # by batch size: by what share two processes of the same model differed
    outcomes: tuple[Outcome, ...]

    @property
    def measured(self) -> tuple[Outcome, ...]:
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
    """Estimates of one contender at one batch size."""

    p50: Estimate
    p90: Estimate
    p99: Estimate
    images_per_second: Estimate
    ratio: Estimate


def apart(turns: Turns, fastest: Turns, floor: float) -> bool:
    """Whether `turns` are slower than `fastest` by more than `floor`, a share, with 97.5 per cent confidence.

    By the trimmed mean over rounds of the logarithm of the ratio of their medians: Tukey and McLaughlin 1963. Another
    program disturbs one turn or two of ten by a factor, and a plain mean then tells nothing of the others.
    """
    ratios = np.log(np.median(turns, axis=1) / np.median(fastest, axis=1))
    if len(ratios) < 2:
        return False  # nothing is known of chance
    return bool(trimmed_mean_lower_bound(ratios, TRIMMED) > np.log1p(floor))


def floor_of(turns: Turns, twin: Turns) -> float:
    """The share by which two processes of the same model differ."""
    return float(np.expm1(abs(np.log(np.median(turns) / np.median(twin)))))


def estimate(turns: Turns, fastest: Turns, timed: npt.NDArray[np.float64], batch_size: int) -> Figures:
    """Percentiles, throughput and the ratio to `fastest`, with percentile bootstrap intervals.

    Whole turns are drawn again, not single calls: calls of one turn resemble each other (Efron and Tibshirani 1993,
    section 8.6, on blocks). The ratio draws the same turns on both sides, as they were taken side by side; both have
    as many turns. `timed` are the seconds of each turn from its first call to its last, in which callers may overlap.
    """
    rounds = len(turns)
    assert rounds == len(fastest)
    draws = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    drawn = turns[draws].reshape(RESAMPLES, -1)
    levels = (0.5, 0.9, 0.99)
    values = np.quantile(turns, levels)
    resampled = np.quantile(drawn, levels, axis=1)
    p50, p90, p99 = (_between(float(value), samples) for value, samples in zip(values, resampled))
    images = batch_size * turns.shape[1]  # of a turn
    rate = _between(images / float(timed.mean()), images / timed[draws].mean(axis=1))
    fastest_p50 = np.median(fastest[draws].reshape(RESAMPLES, -1), axis=1)
    ratio = _between(float(values[0] / np.median(fastest)), resampled[0] / fastest_p50)
    return Figures(p50, p90, p99, rate, ratio)


def _between(value: float, samples: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
