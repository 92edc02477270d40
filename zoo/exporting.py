"""Export: write a run as a file, and let it pass only if it predicts what the run predicts, from bytes to label."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import UsageError, ZooError
from zoo.exporter import Check, ExportSpec, find_exporter
from zoo.machine import versions
from zoo.predictions import Predictions
from zoo.progress import Progress, Silent
from zoo.run import Run, now
from zoo.scan import digest_of
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.dataset import Sample
    from zoo.plugin import Plugins

# Largest difference of a probability between a run and its file. Two engines in fp32 differ by about 1e-6; one grey
# level of a resize moves a probability by up to some 1e-3; a wrong mean or a swapped channel moves it by tenths.
TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a file's predictions lie from the run's, over the same photographs."""

    images: int
    agreeing: int  # equal labels
    largest_difference: float  # of a probability
    flipped: tuple[str, ...]  # ids whose label differs, with both labels and probabilities

    @property
    def passed(self) -> bool:
        return self.agreeing == self.images and self.largest_difference <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.agreeing} of {self.images} labels equal the run's, "
            f"largest probability difference {self.largest_difference:.2g}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "agreeing": self.agreeing,
            "largest_difference": self.largest_difference,
            "tolerance": TOLERANCE,
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that passed, with its parity."""

    path: Path
    size: int  # bytes
    parity: Parity

    def __fspath__(self) -> str:
        return str(self.path)


def compare(ours: Predictions, theirs: Predictions) -> Parity:
    """Parity of two tables over the images that both hold.

    Raises:
        ZooError: they hold different images.
    """
    position = {name: index for index, name in enumerate(theirs.ids)}
    missing = [name for name in ours.ids if name not in position]
    if missing or ours.classes != theirs.classes:
        what = f"`{missing[0]}` is not among the photographs" if missing else "the classes differ"
        raise ZooError(f"the check set is not what the run was scored on: {what}", hint="pass the run's own `--data`")
    rows = np.array([position[name] for name in ours.ids])
    predicted = theirs.predicted[rows]
    flips = np.flatnonzero(predicted != ours.predicted)

    def describe(index: int) -> str:
        mine, other = ours.classes[ours.predicted[index]], ours.classes[predicted[index]]
        return (
            f"{ours.ids[index]}: run {mine} {ours.probabilities[index].max():.4f}, "
            f"file {other} {theirs.probabilities[rows[index]].max():.4f}"
        )

    return Parity(
        images=len(rows),
        agreeing=len(rows) - len(flips),
        largest_difference=float(np.abs(theirs.probabilities[rows] - ours.probabilities).max()),
        flipped=tuple(describe(int(index)) for index in flips),
    )


def export(
    run: Run | Path | str,
    *,
    to: str = "onnx",
    out: Path | str | None = None,
    data: str | None = None,
    device: str = "auto",
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run as a file beside its weights (or as `out`), checked on the reported split's own photographs.

    Raises:
        UsageError: no such format, or the file exists without `force`.
        ZooError: the network cannot be exported, or the file predicts otherwise; then no file is left.
    """
    from zoo.dataset import choose_split, open_images
    from zoo.device import choose_device
    from zoo.evaluation import score
    from zoo.plugin import Plugins
    from zoo.scan import default_workers

    plugins, progress = plugins or Plugins(), progress or Silent()
    choose_device(device, "fp32")  # known to be there before the minutes that writing may take
    run = run if isinstance(run, Run) else Run.open(run)
    exporter = plugins.exporters.find(to).value
    target = Path(out).expanduser() if out is not None else run.path / f"model{exporter.suffix}"
    if target.suffix != exporter.suffix:
        raise UsageError(
            f"`{target}` does not end in `{exporter.suffix}`", hint=f"`--to {to}` writes {exporter.suffix} files"
        )
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder", hint="pass the name of a file by `--out`")
    if target.exists() and not force:
        raise UsageError(f"`{target}` exists", hint="pass another `--out`, or `--force` to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another `--out`")
    ours = run.predictions()
    images = open_images(data or run.experiment.data, run.experiment.split_seed, plugins, of_run=data is None)
    _, samples = choose_split(images, ours.split)
    samples = _as_scored(run, ours, samples)
    network = run.load_network(plugins)
    # beside the target, so that the rename stays on one file system; the suffix must stay for readers to know it
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{exporter.suffix}")
    spec = ExportSpec(
        model=network.model, preprocess=run.preprocess, classes=run.classes, metadata=_metadata(run), file=temporary
    )
    try:
        progress.note(f"writing {exporter.suffix} with `{to}`")
        load_target(exporter.write)(spec)
        predictor = load_target(exporter.open)(temporary, device)
        progress.start("compare with the run", len(samples))
        theirs, _ = score(predictor, samples, ours.split, workers=default_workers(), advance=progress.advance)
        progress.stop()
        parity = compare(ours, theirs)
        if not parity.passed:
            flips = "".join(f"\n  {line}" for line in parity.flipped[:10])
            raise ZooError(
                f"the file predicts otherwise than the run, so it was not kept: {parity}{flips}",
                hint=f"differences up to {TOLERANCE} pass, other labels never; did the photographs change?",
            )
        size = temporary.stat().st_size
        temporary.replace(target)
    except OSError as error:
        raise ZooError(f"`{target}` cannot be written: {error.strerror or error}") from error
    finally:
        progress.stop()
        temporary.unlink(missing_ok=True)
    return Exported(path=target, size=size, parity=parity)


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


def verify(
    file: Path | str,
    *,
    data: str | None = None,
    split: str | None = None,
    device: str = "auto",
    plugins: Plugins | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """Check a file by itself: integrity and golden inputs. With `data`, repeat the full check against its run.

    The run is the folder that the file lies in.

    Raises:
        UsageError: the file or its format is unknown, or with `data` it does not lie in its run's folder.
        ZooError: the file cannot be read at all.
    """
    from zoo.evaluation import evaluate
    from zoo.plugin import Plugins

    plugins = plugins or Plugins()
    path = Path(file)
    exporter = find_exporter(path, plugins)
    checks: list[Check] = list(load_target(exporter.verify)(path, device))
    if data is None:
        if split is not None:
            raise UsageError("`--split` is of `--data`, which is not given", hint="pass both, or neither")
        return checks
    if not all(check.passed for check in checks):
        return [*checks, Check(name="photographs", passed=False, detail="not compared, since the file is not sound")]
    run = Run.open(path.parent) if (path.parent / "run.json").is_file() else None
    if run is None:
        raise UsageError(
            f"`{path}` does not lie in its run's folder, so there is nothing to compare its predictions with",
            hint=f"`zoo evaluate {path} --data {data}` gives its figures",
        )
    ours = run.predictions(split)
    theirs = evaluate(
        path,
        data=data,
        split=ours.split,
        split_seed=run.experiment.split_seed,
        device=device,
        plugins=plugins,
        advance=advance,
    )
    parity = compare(ours, theirs.predictions)
    detail = str(parity) + "".join(f"\n  {line}" for line in parity.flipped[:10])
    return [*checks, Check(name="photographs", passed=parity.passed, detail=detail)]
