"""Making: writes the folder of a run that is made of others, scores it, and compares it with the best of them."""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save as save_tensors

from zoo.backbone import Network
from zoo.combining.parts import HeldOut
from zoo.data.decoding import default_workers
from zoo.errors import UsageError, ZooError
from zoo.evaluation.evaluation import defined_metrics
from zoo.evaluation.paired_diff import compare_tables
from zoo.evaluation.scoring import score
from zoo.evaluation.statistics import accuracy_interval, paired_difference_interval
from zoo.networks.predictor import TorchPredictor
from zoo.plugin import Plugins
from zoo.predictions import Predictions, softmax
from zoo.progress import Progress
from zoo.runs.run import EXCLUDE_FILE, RUN_FILE, SPLITS_FILE, WEIGHTS_FILE, Run, now
from zoo.runs.run_folder import check_folder, default_folder, new_folder
from zoo.runs.source_run import SourceRun
from zoo.storage.files import write_bytes, write_json
from zoo.storage.paths import output_path
from zoo.system.environment import machine, versions
from zoo.training.manifest import command
from zoo.training.temperature_scaling import FEWEST, fit_temperature

BATCH = 32  # images that are classified at once
# Keys of the record that say how a run was trained, and have no meaning for one that is made of others
OF_TRAINING = (
    "callbacks", "checkpoints", "ended_by", "engine", "failure", "fitted", "lr", "others", "peak_memory", "resumed",
    "start_sha256", "steps", "batch_parts", "unknown", "undefined", "from", "soup",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Combined:
    """A run that was made of others.

    Attributes:
        run: The run.
        parts: What its record says of each run that it was made of.
        against: Its difference from the best part, on the reported images.
    """

    run: Run
    parts: tuple[Mapping[str, Any], ...] = field(repr=False)
    against: Mapping[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            "run": str(self.run.path),
            "metrics": self.run.metrics,
            "accuracy_interval_95": self.run.record["accuracy_interval_95"],
            "temperature": self.run.record["temperature"],
            "parts": [dict(one) for one in self.parts],
            "against": dict(self.against),
        }


def choose_folder(out: Path | str | None, force: bool, parts: Sequence[SourceRun], words: tuple[str, str]) -> Path:
    """The folder of the new run, checked: it can be made, and holds none of the parts.

    Raises:
        UsageError: the folder exists and `force` is not set, or a part lies in it.
        ZooError: it could not be written.
    """
    folder = output_path(out) if out is not None else default_folder(*words)
    held = [part.run.path for part in parts if part.run.path.resolve().is_relative_to(folder.resolve())]
    if held:
        raise UsageError(f"`{folder}` holds run `{held[0]}`, which it is made of", hint="pass another `--out`")
    check_folder(folder, force)
    return folder


def log_loss(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Mean log-loss of logits `(N, classes)`."""
    shares = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(shares, 1e-300)).mean())


def class_indices(samples: Sequence[Any], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The class index of each sample, `(N,)`."""
    return np.array([list(classes).index(sample.label) for sample in samples], np.int64)


def logits_of(network: Network, pixels: npt.NDArray[np.uint8], part: SourceRun, device: Any) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of cropped images by a network with the preprocessing of a part."""
    predictor = TorchPredictor(network.model.eval().to(device), (), part.run.preprocess, device)
    return np.concatenate(
        [predictor.logits_of_pixels(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    )


def new_temperature(
    logits: npt.NDArray[Any], labels: npt.NDArray[np.int64], held: HeldOut, otherwise: float
) -> dict[str, Any]:
    """The temperature of logits `(N, classes)` of the deciding images, as a record says it.

    It is fitted where those of the parts were: on images of validation, if they are enough; else it is `otherwise`.
    """
    if held.validated and len(labels) >= FEWEST:
        return {"value": fit_temperature(logits, labels), "fitted_on": "choose"}
    return {"value": otherwise, "fitted_on": None if otherwise == 1 else "the runs"}


def write_run(
    folder: Path,
    network: Network,
    best: SourceRun,
    parts: Sequence[SourceRun],
    held: HeldOut,
    *,
    changes: Mapping[str, Any],
    kind: str,
    device: Any,
    force: bool,
    begun: float,
    plugins: Plugins,
    progress: Progress,
) -> Run:
    """Score a network that was made of runs, and write it as a run.

    Args:
        folder: Where to write.
        network: The network.
        best: The part whose settings the record repeats.
        parts: All parts.
        held: Its images.
        changes: Keys of the record that differ from those of the best part.
        kind: `soup` or `ensemble`, the key of the record that names the parts.
        device: Of torch.
        force: Replace the run in the folder.
        begun: When the making began, by `time.perf_counter`.
        plugins: Loaded plugins.
        progress: Receives reports.

    Raises:
        ZooError: the folder cannot be written.
    """
    for part in parts:
        if part.run.experiment.unknown_rate is not None:
            progress.warn(
                f"run `{part.run.path}` has a threshold for unknown images, and the {kind} has none: it is fitted to "
                "the features of one network"
            )
    record = {key: value for key, value in best.run.record.items() if key not in OF_TRAINING}
    experiment = replace(best.run.experiment, unknown_rate=None, callback=())
    record |= {
        "id": uuid.uuid4().hex,
        "created": now(),
        "command": command(),
        "experiment": experiment.to_json(),
        "versions": versions(),
        "machine": machine(),
        "steps": sum(int(part.run.record.get("steps") or 0) for part in parts),
        **changes,
    }
    progress.start(f"score {held.split}", len(held.reported))
    model = network.model.eval().to(device)
    predictor = TorchPredictor(model, tuple(record["classes"]), best.run.preprocess, device)
    table, bad = score(predictor, held.reported, held.split, workers=default_workers(), advance=progress.advance)
    progress.stop()
    if bad:
        raise ZooError(f"`{bad[0].id}` cannot be decoded any more", hint="restore it from a copy")
    metrics, undefined = defined_metrics(table, plugins)
    against = compare_with(table, _best_reported(parts))
    weights = save_tensors({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    record |= {
        "status": "finished",
        "finished": now(),
        "metrics": metrics,
        **({"undefined": undefined} if undefined else {}),
        "accuracy_interval_95": list(accuracy_interval(table)),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "seconds": {"total": round(time.perf_counter() - begun, 3)},
        kind: {**record[kind], "against": against},
    }
    run = Run(folder, record)
    with new_folder(folder, force) as stage:
        write_json(stage / SPLITS_FILE, _splits(best, parts))
        if (best.run.path / EXCLUDE_FILE).is_file():
            shutil.copyfile(best.run.path / EXCLUDE_FILE, stage / EXCLUDE_FILE)
        write_bytes(stage / WEIGHTS_FILE, weights)
        Run(stage, record).note_look(
            table,
            model=str(stage),
            data=run.data_name,
            split_seed=experiment.split_seed,
            accuracy=metrics.get("accuracy"),
            told_as=str(folder),
        )
        write_json(stage / RUN_FILE, record)
    return run


def _splits(best: SourceRun, parts: Sequence[SourceRun]) -> dict[str, Any]:
    """The content of `splits.json`: what one of the parts was trained on, the whole was trained on."""
    found = best.run.splits()
    fit = dict(zip(found["roles"]["fit"], found["sha256"]["fit"]))
    for part in parts:
        fit = {**part.run.contents()["fit"], **fit}
    return {
        **found,
        "roles": {**found["roles"], "fit": list(fit)},
        "sha256": {**found["sha256"], "fit": list(fit.values())},
    }


def _best_reported(parts: Sequence[SourceRun]) -> SourceRun:
    """The part with the highest accuracy on the reported images; of equal ones, that of the lowest loss."""

    def rank(part: SourceRun) -> tuple[float, float]:
        table = part.run.predictions()
        return float(table.correct.mean()), -log_loss(table.logits, table.labels)

    return max(parts, key=rank)


def compare_with(table: Predictions, best: SourceRun) -> dict[str, Any]:
    """How a new table differs from a part's over the same images: accuracy gained, its interval and p-value."""
    theirs = best.run.predictions()
    found = compare_tables(theirs, table)
    rows = {name: row for row, name in enumerate(table.ids)}
    ours = table.correct[[rows[name] for name in theirs.ids]] if set(rows) == set(theirs.ids) else None
    interval = None  # images of one group are alike, so the interval of single images would be too narrow
    if ours is not None and table.groups is None:
        interval = list(paired_difference_interval(ours, theirs.correct))
    return {
        "run": str(best.run.path.resolve()),
        "images": found.images,
        "accuracy": [found.before, found.after],
        "difference": found.after - found.before,
        "difference_interval_95": interval,
        "p_value": found.p_value,
        "loss": [log_loss(theirs.logits, theirs.labels), log_loss(table.logits, table.labels)],
    }
