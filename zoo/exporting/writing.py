"""Export: write a run as a file, and let it pass only if it predicts what the run predicts, from bytes to label."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.data.decoding import digest_of
from zoo.errors import UsageError, ZooError, quoted
from zoo.exporter import PRECISIONS, Calibration, Exporter, ExportSpec, Precision
from zoo.exporting.calibration_set import RANGES, check_count, draw
from zoo.exporting.parity import TOLERANCE, Parity, compare
from zoo.exporting.precision_search import PrecisionCandidate, fastest, time_candidates
from zoo.progress import LogProgress, Progress
from zoo.runs.run import Run, now
from zoo.runtime import DeviceName
from zoo.storage.files import unwritable
from zoo.system.environment import versions
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.dataset import Sample
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.predictor import Predictor

MAX_DROP = 0.01  # accuracy that fp16 and int8 may lose
SHOWN = 10  # flipped labels in a message


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that passed, with its parity; with `auto`, what became of every precision."""

    path: Path
    size: int  # bytes
    parity: Parity
    candidates: tuple[PrecisionCandidate, ...] = field(default=())

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
    max_drop: float | None = None,
    calibration: int | None = None,
    preprocessing: str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run as a file beside its weights (or as `out`), checked on the reported split's own photographs.

    In fp32 every label must be the run's. fp16 and int8 may lose `max_drop` of accuracy (0.01); int8 reads the ranges
    of values off `calibration` training photographs (32), and what it must choose it chooses on others of them. `auto`
    writes every precision, drops those that lose too much, times the others and keeps the fastest; fp32 where none is
    told apart. `preprocessing` is `graph`, or `outside` for a file that takes normalised pixels; None: as the format
    has it.

    Raises:
        UsageError: no such format, precision or setting, or the file exists without `force`.
        ZooError: the network cannot be exported, or the file predicts otherwise; then no file is left.
    """
    from zoo.data.opening import choose_split, open_images
    from zoo.plugin import Plugins
    from zoo.system.device import choose_device

    plugins, progress = plugins or Plugins(), progress or LogProgress()
    choose_device(device, "fp32")  # known to be there before the minutes that writing may take
    run = run if isinstance(run, Run) else Run.open(run)
    exporter = plugins.exporters.find(to).value
    wanted = _precisions(exporter, precision, max_drop, calibration, preprocessing)
    _check_device(exporter, device)
    if data == "":
        raise UsageError("`--data` is empty", hint="leave it out for the run's own")
    preprocessing = preprocessing or exporter.preprocessing[0]
    target = _target(run, exporter, out, force)
    ours = run.predictions()
    images = open_images(data or run.experiment.data, run.experiment.split_seed, plugins, of_run=data is None)
    samples = _as_scored(run, ours, choose_split(images, ours.split)[1])
    network = run.load_network(plugins)
    shown: Calibration | None = None
    refused: list[PrecisionCandidate] = []
    if "int8" in wanted:
        try:
            shown = draw(run, images, calibration or RANGES)
            ranges, choices = len(shown.ranges), len(shown.choices)
            progress.note(f"int8: ranges of {ranges} training photographs, choices on {choices} others")
        except ZooError as error:
            if precision != "auto":
                raise
            wanted = tuple(one for one in wanted if one != "int8")
            refused.append(PrecisionCandidate(precision="int8", failure=error.message))
            progress.note(f"int8: {error.message}")
    spec = ExportSpec(
        model=network.model,
        preprocess=run.preprocess,
        classes=run.classes,
        metadata=_metadata(run),
        file=target,
        preprocessing=preprocessing,
        calibration=shown,
        max_drop=MAX_DROP if max_drop is None else max_drop,
        note=progress.note,
    )
    candidates: list[PrecisionCandidate] = []
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
                    candidates.append(PrecisionCandidate(precision=name, failure=error.message))
            good = [one for one in candidates if not one.failure]
            if not good:
                raise ZooError(f"no precision passed; the first: {candidates[0].failure}")
            best = good[0]
            if len(good) > 1:
                progress.note("timing what passed, by turns")
                candidates = time_candidates(candidates, files, exporter, plugins)
                best = fastest([one for one in candidates if not one.failure])
            _move(files[best.precision], target, exporter)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        progress.stop()
    assert best.parity is not None and best.size is not None
    told = (*candidates, *refused) if precision == "auto" else ()
    return Exported(path=target, size=best.size, parity=best.parity, candidates=told)


def _precisions(
    exporter: Exporter,
    precision: str,
    max_drop: float | None,
    calibration: int | None,
    preprocessing: str | None,
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
    if max_drop is not None and precision == "fp32":
        raise UsageError("`--max-drop` is of fp16 and int8; in fp32 every label must be the run's")
    if max_drop is not None and not 0 <= max_drop < 1:
        raise UsageError(f"a drop of `{max_drop}` is no share of the photographs", hint="pass `--max-drop 0.01`")
    if calibration is not None:
        if precision not in ("int8", "auto"):
            raise UsageError("`--calibration` is of int8", hint="pass `--precision int8` as well")
        check_count(calibration)
    return exporter.precisions if precision == "auto" else tuple(one for one in PRECISIONS if one == precision)


def _check_device(exporter: Exporter, device: str) -> None:
    if DeviceName.parse(device).kind not in ("auto", *exporter.devices):
        raise UsageError(f"`{exporter.name}` files run on {' '.join(exporter.devices)}, not on `{device}`")


def _target(run: Run, exporter: Exporter, out: Path | str | None, force: bool) -> Path:
    target = Path(out).expanduser() if out is not None else run.path / f"model{exporter.suffix}"
    if target.suffix != exporter.suffix:
        raise UsageError(
            f"`{target}` does not end in `{exporter.suffix}`",
            hint=f"`--to {exporter.name}` writes {exporter.suffix} files",
        )
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder", hint="pass the name of a file by `--out`")
    for file in (target, *_companions(target, exporter)):
        if file.exists() and not force:
            raise UsageError(f"`{file}` exists", hint="pass another `--out`, or `--force` to replace it")
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


def _companions(target: Path, exporter: Exporter) -> list[Path]:
    """What may lie beside a file of this format, and belongs to it."""
    return [target.with_name(name.format(name=target.name, stem=target.stem)) for name in exporter.beside]


def _move(file: Path, target: Path, exporter: Exporter) -> None:
    """Put a file in its place, after what was written beside it; what an older one had beside it goes."""
    written = {other.name for other in file.parent.iterdir()}
    for companion in _companions(target, exporter):
        if companion.name in written:
            file.with_name(companion.name).replace(companion)
        else:
            companion.unlink(missing_ok=True)
    file.replace(target)


def _write(
    spec: ExportSpec,
    exporter: Exporter,
    ours: Predictions,
    samples: tuple[Sample, ...],
    device: str,
    progress: Progress,
) -> PrecisionCandidate:
    """Write one precision and hold it to the run.

    Raises:
        ZooError: it cannot be written, or predicts otherwise than it may.
    """
    progress.note(f"writing {exporter.suffix} in {spec.precision}")
    try:
        load_target(exporter.write)(spec)
    except (ZooError, OSError):
        raise
    except Exception as error:  # a runtime's, on the graph that was written; they share no base class but this
        raise ZooError(f"the file cannot be written: {type(error).__name__}: {quoted(error)}") from error
    _check_itself(spec, exporter)
    first = load_target(exporter.open)(spec.file, device)
    # what it is held to below is read off the file, so that must be the run's
    for what, said, meant in (
        ("classes", first.classes, spec.classes),
        ("preprocessing", first.preprocess, spec.preprocess),
    ):
        if said != meant:
            raise ZooError(f"the file names other {what} than the run, so it was not kept: {said} for {meant}")
    found = [_held(first, spec, exporter, ours, samples, device, progress)]
    if "CUDA" in first.device and device == "auto":  # nobody said where it will run, so it must hold on both
        other = load_target(exporter.open)(spec.file, "cpu")
        found.append(_held(other, spec, exporter, ours, samples, "cpu", progress))
        progress.note(f"on {other.device}: {found[-1]}")
    if exporter.annotate is not None:
        load_target(exporter.annotate)(spec.file, found[0].summary())
        _check_itself(spec, exporter)  # the file that is kept is the one that was written last
    return PrecisionCandidate(precision=spec.precision, parity=found[0], size=_size(spec.file))


def _check_itself(spec: ExportSpec, exporter: Exporter) -> None:
    """Verify a file that was written.

    Raises:
        ZooError: a check does not hold.
    """
    broken = [check for check in load_target(exporter.verify)(spec.file, "cpu") if not check.passed]
    if broken:
        raise ZooError(f"the file does not hold what it says, so it was not kept: {broken[0].name}: {broken[0].detail}")


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
    from zoo.data.decoding import default_workers
    from zoo.evaluation.scoring import score

    progress.start(f"compare {spec.precision} with the run", len(samples))
    try:
        theirs, _ = score(predictor, samples, ours.split, workers=default_workers(), advance=progress.advance)
    except ZooError:
        raise
    except Exception as error:  # a runtime's, on a graph that loads and does not run; they share no base class but this
        raise ZooError(f"the file does not run: {type(error).__name__}: {quoted(error)}") from error
    progress.stop()
    parity = compare(ours, theirs, precision=spec.precision, max_drop=spec.max_drop, provider=predictor.device)
    if exporter.stages is not None:
        progress.start("compare stage by stage", len(samples))
        try:
            stages = load_target(exporter.stages)(spec.file, device, ours, samples, progress.advance)
        except ZooError:
            raise
        except Exception as error:  # what its stages are held to counts, so that one that hides them does not pass
            raise ZooError(f"the file cannot be compared stage by stage: {quoted(error)}") from error
        parity = replace(parity, stages=stages)
        progress.stop()
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
    elif parity.stages:
        lines.append(f"photographs are prepared alike: {parity.stages[-1]}")
    return "\n  ".join(lines)


def _hint(parity: Parity) -> str:
    if parity.precision == "fp32" or parity.parted() is not None:
        return f"differences up to {TOLERANCE} pass, other labels never; the exporter errs on this network"
    if parity.drop <= parity.max_drop:
        return "labels hold and probabilities do not; take another `--precision`"
    return f"`--max-drop {parity.max_drop:g}` is what may be lost; allow more, or take another `--precision`"


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
