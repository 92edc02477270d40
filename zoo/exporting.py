"""Export: write a run as a file, and let it pass only if it predicts what the run predicts, from bytes to label."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.errors import UsageError, ZooError
from zoo.exporter import PRECISIONS, Calibration, Exporter, ExportSpec, Precision
from zoo.machine import versions
from zoo.parity import TOLERANCE, Parity, compare
from zoo.progress import Progress, Silent
from zoo.run import Run, now
from zoo.scan import digest_of
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.dataset import Images, Sample
    from zoo.latency_report import Measurement
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.predictor import Predictor

MAX_DROP = 0.01  # accuracy that fp16 and int8 may lose
CALIBRATION = 32  # training photographs that int8 reads the ranges of values off
FEWEST = 8
CHOICES = 128  # others at most, that it is chosen on
SHOWN = 10  # flipped labels in a message
TIMED = 1.0  # seconds of each file, where the fastest is looked for


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What became of one precision: its parity, its size in bytes, its latency (seconds, with the 95 % interval)."""

    precision: str
    parity: Parity | None = None
    size: int | None = None
    latency: tuple[float, float, float] | None = None
    told_apart: bool = False  # slower than the fastest of all by more than chance
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "parity": self.parity.to_json() if self.parity is not None else None,
            "bytes": self.size,
            "latency": list(self.latency) if self.latency is not None else None,
            "failure": self.failure or None,
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that passed, with its parity; with `auto`, what became of every precision."""

    path: Path
    size: int  # bytes
    parity: Parity
    candidates: tuple[Candidate, ...] = field(default=())

    def __fspath__(self) -> str:
        return str(self.path)


def export(
    run: Run | Path | str,
    *,
    to: str = "onnx",
    out: Path | str | None = None,
    data: str | None = None,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "fp32",
    max_drop: float = MAX_DROP,
    calibration: int = CALIBRATION,
    preprocessing: str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run as a file beside its weights (or as `out`), checked on the reported split's own photographs.

    In fp32 every label must be the run's. fp16 and int8 may lose `max_drop` of accuracy; int8 reads the ranges of
    values off `calibration` training photographs, and what it must choose it chooses on others of them. `auto` writes
    every precision, drops those that lose too much, times the others and keeps the fastest; fp32 where none is told
    apart. `preprocessing` is `graph`, or `outside` for a file that takes normalised pixels; None is the format's own.

    Raises:
        UsageError: no such format, precision or setting, or the file exists without `force`.
        ZooError: the network cannot be exported, or the file predicts otherwise; then no file is left.
    """
    from zoo.dataset import choose_split, open_images
    from zoo.device import choose_device
    from zoo.plugin import Plugins

    plugins, progress = plugins or Plugins(), progress or Silent()
    choose_device(device, "fp32")  # known to be there before the minutes that writing may take
    run = run if isinstance(run, Run) else Run.open(run)
    exporter = plugins.exporters.find(to).value
    wanted = _precisions(exporter, precision, max_drop, calibration, preprocessing)
    preprocessing = preprocessing or exporter.preprocessing[0]
    target = _target(run, exporter, out, force)
    ours = run.predictions()
    images = open_images(data or run.experiment.data, run.experiment.split_seed, plugins, of_run=data is None)
    samples = _as_scored(run, ours, choose_split(images, ours.split)[1])
    network = run.load_network(plugins)
    shown: Calibration | None = None
    refused: list[Candidate] = []
    if "int8" in wanted:
        try:
            shown = _calibration(run, images, calibration, progress)
        except ZooError as error:
            if precision != "auto":
                raise
            wanted = tuple(one for one in wanted if one != "int8")
            refused.append(Candidate(precision="int8", failure=error.message))
            progress.note(f"int8: {error.message}")
    spec = ExportSpec(
        model=network.model,
        preprocess=run.preprocess,
        classes=run.classes,
        metadata=_metadata(run),
        file=target,
        preprocessing=preprocessing,
        calibration=shown,
        max_drop=max_drop,
        note=progress.note,
    )
    candidates: list[Candidate] = []
    try:
        with _beside(target, wanted) as files:
            for name in wanted:
                try:
                    part = replace(spec, precision=name, file=files[name])
                    candidates.append(_write(part, exporter, ours, samples, device, progress))
                except ZooError as error:
                    if precision != "auto":
                        raise
                    progress.note(f"{name}: {error.message}")
                    candidates.append(Candidate(precision=name, failure=error.message))
            good = [one for one in candidates if not one.failure]
            if not good:
                raise ZooError(f"no precision passed; the first: {candidates[0].failure}")
            best = good[0]
            if len(good) > 1:
                candidates = _timed(candidates, files, exporter.name, device, plugins, progress)
                best = fastest([one for one in candidates if not one.failure])
            _move(files[best.precision], target)
    except OSError as error:
        raise ZooError(f"`{target}` cannot be written: {error.strerror or error}") from error
    finally:
        progress.stop()
    assert best.parity is not None and best.size is not None
    told = (*candidates, *refused) if precision == "auto" else ()
    return Exported(path=target, size=best.size, parity=best.parity, candidates=told)


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the least latency; but fp32, where it cannot be told apart from it or was not timed."""
    plain = candidates[0]
    if plain.precision == "fp32" and not plain.told_apart:
        return plain
    timed = [one for one in candidates if one.latency is not None]
    return min(timed, key=lambda one: one.latency[0] if one.latency else 0.0, default=plain)


def _precisions(
    exporter: Exporter, precision: str, max_drop: float, calibration: int, preprocessing: str | None
) -> tuple[Precision, ...]:
    """The precisions to write, in order.

    Raises:
        UsageError: a value that cannot be meant, or that the format does not have.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise UsageError(f"unknown precision `{precision}`", hint=f"known are {' '.join(PRECISIONS)} auto")
    if precision != "auto" and precision not in exporter.precisions:
        raise UsageError(
            f"`{exporter.name}` has no {precision}", hint=f"it has {' '.join(exporter.precisions)}; `--to onnx` has all"
        )
    if preprocessing is not None and preprocessing not in exporter.preprocessing:
        raise UsageError(
            f"`{exporter.name}` has no preprocessing `{preprocessing}`",
            hint=f"it has {' '.join(exporter.preprocessing)}",
        )
    if not 0 <= max_drop < 1:
        raise UsageError(f"a drop of `{max_drop}` is no share of the photographs", hint="pass `--max-drop 0.01`")
    if calibration < FEWEST:
        raise UsageError(f"{calibration} photographs tell no ranges", hint=f"pass {FEWEST} or more")
    return exporter.precisions if precision == "auto" else tuple(one for one in PRECISIONS if one == precision)


def _target(run: Run, exporter: Exporter, out: Path | str | None, force: bool) -> Path:
    target = Path(out).expanduser() if out is not None else run.path / f"model{exporter.suffix}"
    if target.suffix != exporter.suffix:
        raise UsageError(
            f"`{target}` does not end in `{exporter.suffix}`",
            hint=f"`--to {exporter.name}` writes {exporter.suffix} files",
        )
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder", hint="pass the name of a file by `--out`")
    if target.exists() and not force:
        raise UsageError(f"`{target}` exists", hint="pass another `--out`, or `--force` to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another `--out`")
    return target


@contextmanager
def _beside(target: Path, precisions: Sequence[str]) -> Iterator[dict[str, Path]]:
    """The file of each precision in a folder of its own beside the target: on its file system, and under its name.

    An exporter may write more files there than the one. Nothing is left behind.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}.", dir=target.parent))
    try:
        files = {name: folder / name / target.name for name in precisions}
        for file in files.values():
            file.parent.mkdir()
        yield files
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(file: Path) -> int:
    """Bytes of a file and of all that was written beside it."""
    return sum(one.stat().st_size for one in file.parent.iterdir())


def _move(file: Path, target: Path) -> None:
    """Put a file in its place, after what was written beside it."""
    for other in sorted(file.parent.iterdir()):
        if other != file:
            other.replace(target.with_name(other.name))
    file.replace(target)


def _write(
    spec: ExportSpec,
    exporter: Exporter,
    ours: Predictions,
    samples: tuple[Sample, ...],
    device: str,
    progress: Progress,
) -> Candidate:
    """Write one precision and hold it to the run.

    Raises:
        ZooError: it cannot be written, or predicts otherwise than it may.
    """
    progress.note(f"writing {exporter.suffix} in {spec.precision}")
    load_target(exporter.write)(spec)
    first = load_target(exporter.open)(spec.file, device)
    found = [_held(first, spec, exporter, ours, samples, device, progress)]
    if "CUDA" in first.device and device == "auto":  # nobody said where it will run, so it must hold on both
        other = load_target(exporter.open)(spec.file, "cpu")
        found.append(_held(other, spec, exporter, ours, samples, "cpu", progress))
        progress.note(f"on {other.device}: {found[-1]}")
    if exporter.annotate is not None:
        load_target(exporter.annotate)(spec.file, found[0].summary())
    return Candidate(precision=spec.precision, parity=found[0], size=_size(spec.file))


def _held(
    predictor: Predictor,
    spec: ExportSpec,
    exporter: Exporter,
    ours: Predictions,
    samples: tuple[Sample, ...],
    device: str,
    progress: Progress,
) -> Parity:
    """The parity of a file on one device.

    Raises:
        ZooError: it predicts otherwise than it may.
    """
    from zoo.evaluation import score
    from zoo.scan import default_workers

    progress.start(f"compare {spec.precision} with the run", len(samples))
    theirs, _ = score(predictor, samples, ours.split, workers=default_workers(), advance=progress.advance)
    progress.stop()
    parity = compare(ours, theirs, precision=spec.precision, max_drop=spec.max_drop, provider=predictor.device)
    if exporter.stages is not None and (spec.precision == "fp32" or not parity.passed):
        parity = replace(parity, stages=load_target(exporter.stages)(spec.file, device, ours, samples))
    if not parity.passed:
        raise ZooError(
            f"the file predicts otherwise than the run, so it was not kept: {_told(parity)}", hint=_hint(parity)
        )
    return parity


def _told(parity: Parity) -> str:
    lines = [str(parity), *(str(flip) for flip in parity.flips[:SHOWN])]
    if len(parity.flips) > SHOWN:
        lines.append(f"and {len(parity.flips) - SHOWN} more")
    if parity.precision != "fp32":
        worst = max(parity.drop_per_class.items(), key=lambda item: item[1], default=("", 0.0))
        lines.append(f"class `{worst[0]}` loses most: {worst[1]:.4f}")
    parted = parity.parted()
    if parted is not None:
        lines.append(f"it parts from the run in this stage: {parted}")
    return "\n  ".join(lines)


def _hint(parity: Parity) -> str:
    if parity.precision == "fp32":
        return f"differences up to {TOLERANCE} pass, other labels never; did the photographs change?"
    return f"`--max-drop {parity.max_drop:g}` is what may be lost; allow more, or take another `--precision`"


def _timed(
    candidates: list[Candidate], files: dict[str, Path], kind: str, device: str, plugins: Plugins, progress: Progress
) -> list[Candidate]:
    """The candidates that passed with the latency of one photograph, by turns, each on its fastest runtime."""
    from zoo.latency import bench

    progress.note("timing what passed, by turns")
    paths = [files[one.precision] for one in candidates if not one.failure]
    report = bench(paths, device=device, batch_sizes=(1,), seconds=TIMED, plugins=plugins)
    found: dict[str, Measurement] = {}
    for outcome in report.measured:
        measured = outcome.measurements[0]
        if outcome.target not in found or measured.p50.value < found[outcome.target].p50.value:
            found[outcome.target] = measured

    def with_latency(one: Candidate) -> Candidate:
        measured = found.get(str(files[one.precision]))
        if measured is None:
            return one
        p50 = measured.p50
        return replace(one, latency=(p50.value, p50.low, p50.high), told_apart=measured.told_apart)

    return [with_latency(one) for one in candidates]


def _calibration(run: Run, images: Images, count: int, progress: Progress) -> Calibration:
    """Photographs that the run was fitted on, as many of each class as can be, drawn by the run's seed.

    Raises:
        ZooError: there are too few.
    """
    from zoo.photograph import pixels
    from zoo.scan import decode_all, default_workers

    fitted = run.fitted()
    samples = [sample for part in images.splits.values() for sample in part if sample.id in fitted]
    if len(samples) < 2 * FEWEST:
        raise ZooError(
            f"int8 needs {2 * FEWEST} of the photographs that the run was fitted on, and {len(samples)} are there",
            hint="pass the run's own `--data`, or another `--precision`",
        )
    generator = np.random.default_rng(run.experiment.seed)
    by_class: dict[str, list[Any]] = {}
    for index in generator.permutation(len(samples)):
        by_class.setdefault(samples[index].label, []).append(samples[index])
    ranked = sorted((place, label) for label, some in by_class.items() for place in range(len(some)))
    count = min(count, len(samples) // 2)
    chosen = [by_class[label][place] for place, label in ranked[: count + CHOICES]]
    shown, labels = [], []
    for sample, result in decode_all(chosen, default_workers()):
        if isinstance(result, np.ndarray):
            shown.append(pixels(result, run.preprocess))
            labels.append(run.classes.index(sample.label))
    progress.note(f"int8: ranges of {count} training photographs, choices on {len(shown) - count} others")
    batch = np.stack(shown)
    return Calibration(ranges=batch[:count], choices=batch[count:], labels=np.array(labels[count:], np.int64))


def _as_scored(run: Run, ours: Predictions, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The samples that the run was scored on, proved to be the same photographs by their recorded digest.

    Raises:
        ZooError: photographs are missing, or changed since.
    """
    held = set(ours.ids)
    found = tuple(sample for sample in samples if sample.id in held)
    missing = sorted(held - {sample.id for sample in found})
    hint = "pass the run's own photographs by `--data`, or train again"
    if missing:
        raise ZooError(
            f"`{missing[0]}` is not among the photographs ({len(missing)} of {len(held)} are missing)", hint=hint
        )
    recorded = run.record["data"].get("reported") or run.record["data"].get("choose")
    if recorded and digest_of(found) != recorded["sha256"]:
        raise ZooError("the photographs changed since the run was scored on them", hint=hint)
    return found


def _metadata(run: Run) -> dict[str, Any]:
    """What the file says about itself beside its classes and preprocessing."""
    record = run.record
    keys = ("backbone", "strategy", "license", "metrics", "accuracy_interval_95", "reported_split")
    weights = dict(record.get("weights") or {})
    if weights.get("tag") == "file":
        weights["source"] = Path(weights["source"]).name  # a file travels; the folders of its maker's machine do not
    return {
        **{key: record.get(key) for key in keys},
        "weights": weights,
        "data_name": Path(str(record.get("data_name"))).name,
        "split_seed": run.experiment.split_seed,
        "data": record.get("data"),
        "weights_sha256": record.get("weights_sha256"),
        "trained": record.get("created"),
        "exported": now(),
        "versions": versions(),
    }
