"""Export: write a run as a file, and keep the file only if it predicts what the run predicts, from bytes to label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo.data.decoding import digest_of
from zoo.errors import UsageError, ZooError, counted, quoted
from zoo.exporter import PRECISIONS, Calibration, Exporter, ExportSpec, Precision, StageDifference
from zoo.exporting.calibration_set import RANGES, check_count, draw
from zoo.exporting.metadata import file_metadata
from zoo.exporting.parity import Parity, compare, details, remedy
from zoo.exporting.precision_search import PrecisionCandidate, fastest, time_candidates
from zoo.exporting.reference import MeasuringPredictor, Reference, make_reference
from zoo.exporting.target_files import companions, files_beside, move_into_place, size_of
from zoo.exporting.views import over_views, predictions_over_views, views_metadata
from zoo.inference.opening import checks_of, open_exported
from zoo.predictor import threshold_of
from zoo.progress import LogProgress, Progress
from zoo.row import check_returned
from zoo.runs.run import Run
from zoo.runtime import DeviceName
from zoo.storage.files import unwritable
from zoo.storage.paths import output_path
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.dataset import Images, Sample
    from zoo.plugin import Plugins
    from zoo.predictions import Predictions
    from zoo.predictor import Predictor

MAX_DROP = 0.01  # accuracy that fp16 and int8 may lose


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file that passed the comparison with its run, or that could not be compared on this machine.

    Attributes:
        path: The file.
        size: Bytes of the file, and of whatever was written beside it.
        comparison: How its predictions compare with the run's. None: this machine cannot execute the file.
        not_compared: Why there is no comparison; else empty.
        candidates: With precision `auto`, the result of every precision; else empty.
    """

    path: Path
    size: int
    comparison: Parity | None
    not_compared: str = ""
    candidates: tuple[PrecisionCandidate, ...] = field(default=())

    @property
    def parity(self) -> Parity:
        """The comparison.

        Raises:
            ZooError: there is none.
        """
        if self.comparison is None:
            raise ZooError(f"`{self.path}` was not compared with its run: {self.not_compared}")
        return self.comparison

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
    tta: str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run as a file, and compare the file's predictions with the run's on the images of the reported split.

    In fp32 every label must equal the run's. In fp16 and int8 accuracy may drop by `max_drop`. A file that does not
    pass is not kept.

    Args:
        run: The run, or its folder.
        to: Name of an exporter, such as `onnx`.
        out: The file to write. None: one beside the run's weights.
        data: The run's data, if they were moved. None: the path that the run records.
        device: Device for the comparison: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        precision: `fp32`, `fp16`, `int8` or `auto`. `auto` writes every precision, measures the latency of those that
            pass, and keeps the fastest; fp32 where it is not significantly slower.
        max_drop: Accuracy that fp16 and int8 may lose, as a share of the images. None: 0.01.
        calibration: Training images from which int8 reads value ranges. None: 32. Whatever else int8 has to choose is
            chosen on other training images.
        preprocessing: `graph`: the file takes photographs. `outside`: it takes normalised pixels. None: the first of
            the two that the format supports.
        tta: Test-time augmentation: `flip` averages the probabilities of each image and of its mirror image, which
            takes twice as long; `five-crop` those of four corners and the centre, `ten-crop` those of these and their
            mirror images. The file is compared with the run over the same views. None: none.
        force: Replace an existing file.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: there is no such format, precision or setting, or the file exists and `force` is not set.
        ZooError: the network cannot be exported, or the file does not pass.
    """
    from zoo.data.division import undivided
    from zoo.data.opening import choose_split, open_to_score, read_as, spelt_as
    from zoo.plugin import Plugins
    from zoo.system.device import choose_device

    plugins, progress = plugins or Plugins(), progress or LogProgress()
    choose_device(device, "fp32")  # raises now if it does not exist, not after minutes of writing
    run = Run.open(run)
    run.check_is_network()
    plain, run = run, over_views(run, tta)
    exporter = plugins.exporters.find(to).value
    wanted = _precisions(exporter, precision, max_drop, calibration, preprocessing)
    _check_device(exporter, device)
    reason = _why_not_executable(exporter)
    if reason is not None and precision != "fp32":
        raise ZooError(
            f"`--precision {precision}` is kept only if the file passes a comparison with the run: {reason}",
            hint="pass `--precision fp32`",
        )
    if data == "":
        raise UsageError("`--data` is empty", hint="leave it out for the run's own")
    preprocessing = preprocessing or exporter.preprocessing[0]
    unknown = run.unknown_score()
    if unknown is not None and not exporter.scores_unknown:
        able = [entry.name for entry in plugins.exporters if entry.value.scores_unknown]
        raise UsageError(
            f"`{exporter.name}` files cannot have the score of unknown images that run `{run.path}` has",
            hint=f"pass `--to {able[0]}`, or train without `--unknown-rate`" if able else "train without it",
        )
    target = _target(run, exporter, out, force, tta)
    own = run.experiment.data
    where = undivided(read_as(own, data or own, plugins))  # images are found by their ids, in whatever split
    images = open_to_score(where, run.experiment.split_seed, plugins, of_run=data is None)
    ours = _of_training_images(run, images, plugins) if run.is_final else run.predictions()
    metadata = file_metadata(plain)
    try:
        contents = run.contents()
    except ZooError:  # only int8 needs them, and says so
        contents = {}
    images = spelt_as(images, [*ours.ids, *contents.get("fit", {})], run.classes)
    samples = _evaluated_samples(run, ours, choose_split(images, "all")[1])
    if tta is not None and not run.is_final:
        progress.start(f"score {ours.split} over views", len(samples))
        ours = predictions_over_views(run, samples, ours.split, plugins, progress)
        progress.stop()
        metadata = views_metadata(metadata, tta, plain, ours, plugins)
    elif tta is not None:
        metadata = views_metadata(metadata, tta, plain, None, plugins)
    network = run.load_network(plugins)
    shown: Calibration | None = None
    refused: list[PrecisionCandidate] = []
    if "int8" in wanted:
        try:
            shown = draw(run, images, calibration or RANGES)
            ranges = counted(len(shown.ranges), "training photograph")
            progress.note(f"int8: value ranges from {ranges}, choices on {counted(len(shown.choices), 'other')}")
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
        metadata=metadata,
        file=target,
        preprocessing=preprocessing,
        calibration=shown,
        max_drop=MAX_DROP if max_drop is None else max_drop,
        note=progress.note,
        unknown=unknown,
    )
    candidates: list[PrecisionCandidate] = []
    try:
        with files_beside(target, wanted) as files:
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
                progress.note("measuring the latency of the precisions that passed")
                progress.start("measure latencies", 0)
                candidates = time_candidates(candidates, files, exporter, plugins)
                best = fastest([one for one in candidates if not one.failure])
            move_into_place(files[best.precision], target, exporter)
    except OSError as error:
        raise unwritable(target, error) from error
    except KeyboardInterrupt as stop:
        stop.add_note(f"`zoo export {run.path}` starts again, nothing was written")
        raise
    finally:
        progress.stop()
    assert best.size is not None
    tried = (*candidates, *refused) if precision == "auto" else ()
    return Exported(path=target, size=best.size, comparison=best.parity, not_compared=reason or "", candidates=tried)


def _why_not_executable(exporter: Exporter) -> str | None:
    """Why files of a format cannot be executed on this machine; None where they can."""
    if exporter.executable is None:
        return None
    reason: str | None = load_target(exporter.executable)()
    check_returned(reason, str | None, exporter.executable, f"exporter `{exporter.name}`")
    return reason


def _of_training_images(run: Run, images: Images, plugins: Plugins) -> Predictions:
    """Predictions of a final run on the images that it was trained on, for want of others: engines are compared."""
    from zoo.data.decoding import default_workers
    from zoo.evaluation.scoring import score

    names = run.fitted()
    samples = [sample for part in images.splits.values() for sample in part if sample.id in names]
    table, _ = score(run.predictor("cpu", plugins), samples, "train", workers=default_workers())
    return table


def _precisions(
    exporter: Exporter,
    precision: str,
    max_drop: float | None,
    calibration: int | None,
    preprocessing: str | None,
) -> tuple[Precision, ...]:
    """The precisions to write, in order.

    Raises:
        UsageError: a value is not valid, or the format does not support it.
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
        raise UsageError("`--max-drop` is for fp16 and int8; in fp32 every label must equal the run's")
    if max_drop is not None and not 0 <= max_drop < 1:
        raise UsageError(f"a drop of `{max_drop}` is not a share from 0 to below 1", hint="pass `--max-drop 0.01`")
    if calibration is not None:
        if precision not in ("int8", "auto"):
            raise UsageError("`--calibration` is for int8", hint="pass `--precision int8` as well")
        check_count(calibration)
    return exporter.precisions if precision == "auto" else tuple(one for one in PRECISIONS if one == precision)


def _check_device(exporter: Exporter, device: str) -> None:
    if DeviceName.parse(device).kind not in ("auto", *exporter.devices):
        raise UsageError(f"`{exporter.name}` files run on {' '.join(exporter.devices)}, not on `{device}`")


def _target(run: Run, exporter: Exporter, out: Path | str | None, force: bool, tta: str | None) -> Path:
    name = "model" if tta is None else f"model.{tta}"
    target = output_path(out) if out is not None else run.path / f"{name}{exporter.suffix}"
    if target.suffix.lower() != exporter.suffix:
        raise UsageError(
            f"`{target}` does not end in `{exporter.suffix}`",
            hint=f"`--to {exporter.name}` writes {exporter.suffix} files",
        )
    if target.is_dir() and not exporter.folder:
        raise UsageError(f"`{target}` is a folder", hint="pass the name of a file with `--out`")
    for file in (target, *companions(target, exporter)):
        if file.exists() and not force:
            raise UsageError(f"`{file}` exists", hint="pass another `--out`, or `--force` to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another `--out`")
    return target


def _write(
    spec: ExportSpec,
    exporter: Exporter,
    ours: Predictions,
    samples: Sequence[Sample],
    device: str,
    progress: Progress,
) -> PrecisionCandidate:
    """Write one precision, verify the file, and compare it with the run.

    Raises:
        ZooError: it cannot be written, or does not pass.
    """
    progress.note(f"writing {exporter.suffix} in {spec.precision}")
    progress.start(f"write {exporter.suffix} in {spec.precision}", 0)
    try:
        load_target(exporter.write)(spec)
    except (ZooError, OSError):
        raise
    except Exception as error:  # errors of a runtime on the graph share no base class but this
        raise ZooError(f"the file cannot be written: {type(error).__name__}: {quoted(error)}") from error
    _verify_alone(spec, exporter)
    reason = _why_not_executable(exporter)
    if reason is not None:
        progress.warn(f"not compared with the run: {reason}")
        if exporter.annotate is not None:
            load_target(exporter.annotate)(spec.file, {"compared": False, "reason": reason})
            _verify_alone(spec, exporter)  # again, because the annotation changed the file
        return PrecisionCandidate(precision=spec.precision, size=size_of(spec.file))
    first = open_exported(exporter, spec.file, device)
    # the comparison below uses the classes and the preprocessing that the file records, so they must be the run's
    for what, recorded, expected in (
        ("classes", first.classes, spec.classes),
        ("preprocessing", first.preprocess, spec.preprocess),
        ("threshold of unknown images", threshold_of(first), spec.unknown and spec.unknown.threshold),
    ):
        if recorded != expected:
            raise ZooError(
                f"the file records other {what} than the run's, so it was not kept: {recorded}, not {expected}"
            )
    parity, reference = _compare_with_run(first, spec, exporter, ours, samples, device, progress)
    if "CUDA" in first.device and device == "auto":  # it may be used on either device, so it must pass on both
        other = open_exported(exporter, spec.file, "cpu")
        progress.note(
            f"on {other.device}: {_compare_with_run(other, spec, exporter, ours, samples, 'cpu', progress)[0]}"
        )
    if exporter.refer is not None and reference is not None:
        load_target(exporter.refer)(spec.file, reference.to_json())
    if exporter.annotate is not None:
        load_target(exporter.annotate)(spec.file, parity.summary())
    if exporter.refer is not None or exporter.annotate is not None:
        _verify_alone(spec, exporter)  # again, because the annotations changed the file
    return PrecisionCandidate(precision=spec.precision, parity=parity, size=size_of(spec.file))


def _verify_alone(spec: ExportSpec, exporter: Exporter) -> None:
    """Verify a written file by itself.

    Raises:
        ZooError: a check fails.
    """
    broken = [check for check in checks_of(exporter, spec.file, "cpu") if not check.passed and not check.skipped]
    if broken:
        raise ZooError(f"the file fails its verification, so it was not kept: {broken[0].name}: {broken[0].detail}")


def _compare_with_run(
    predictor: Predictor,
    spec: ExportSpec,
    exporter: Exporter,
    ours: Predictions,
    samples: Sequence[Sample],
    device: str,
    progress: Progress,
) -> tuple[Parity, Reference | None]:
    """The parity of a file on one device, and its reference if it can hold one, from the same pass over the images.

    Raises:
        ZooError: it does not pass.
    """
    from zoo.data.decoding import default_workers
    from zoo.evaluation.scoring import score

    progress.start(f"compare {spec.precision} with the run", len(samples))
    try:
        measuring = MeasuringPredictor(predictor)
        asked = predictor if exporter.refer is None else measuring
        theirs, _ = score(asked, samples, ours.split, workers=default_workers(), advance=progress.advance)
    except ZooError:
        raise
    except Exception as error:  # errors of a runtime on the graph share no base class but this
        raise ZooError(f"the file does not run: {type(error).__name__}: {quoted(error)}") from error
    progress.stop()
    parity = compare(ours, theirs, precision=spec.precision, max_drop=spec.max_drop, provider=predictor.device)
    if exporter.stages is not None:
        progress.start("compare stage by stage", len(samples))
        try:
            stages = load_target(exporter.stages)(spec.file, device, ours, samples, progress.advance)
        except ZooError:
            raise
        except Exception as error:  # the stages are part of the comparison: without them the file does not pass
            raise ZooError(f"the file cannot be compared stage by stage: {quoted(error)}") from error
        check_returned(stages, tuple[StageDifference, ...], exporter.stages, f"exporter `{exporter.name}`")
        parity = replace(parity, stages=stages)
        progress.stop()
    if not parity.passed:
        raise ZooError(
            f"the file's predictions differ from the run's, so it was not kept: {details(parity)}", hint=remedy(parity)
        )
    return parity, None if exporter.refer is None else make_reference(theirs, measuring.measured)


def _evaluated_samples(run: Run, ours: Predictions, samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples that the run was evaluated on, checked against the recorded digest of their content.

    Raises:
        ZooError: images are missing, or changed since.
    """
    held = set(ours.ids)
    found = tuple(sample for sample in samples if sample.id in held)
    missing = sorted(held - {sample.id for sample in found})
    hint = "pass the run's own photographs by `--data`, or train again"
    if missing:
        raise ZooError(
            f"`{missing[0]}` is not among the photographs ({len(missing)} of {len(held)} are missing)", hint=hint
        )
    order = {name: index for index, name in enumerate(ours.ids)}
    found = tuple(sorted(found, key=lambda sample: order[sample.id]))  # by the names in the run's own Unicode form
    recorded = run.record["data"].get("reported") or run.record["data"].get("choose")
    if recorded and digest_of(found) != recorded["sha256"]:
        raise ZooError("the photographs changed since the run was evaluated on them", hint=hint)
    return found
