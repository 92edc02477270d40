"""Evaluation: one path from photographs to figures, for a run and for its exported file alike."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.dataset import ROLES, Images, Sample
from zoo.errors import UsageError, ZooError, did_you_mean
from zoo.files import SCHEMA
from zoo.photograph import SUFFIXES, BadImage
from zoo.predictions import Predictions
from zoo.predictor import Predictor, softmax
from zoo.scan import BadFile, decode_all
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.run import Run

# Photographs in memory at once while scoring; 12 megapixels are 36 MB
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one model on one split, with the predictions that they were computed from."""

    model: str
    data: str
    device: str
    predictions: Predictions
    metrics: dict[str, float]
    bad: tuple[BadFile, ...] = ()

    def per_class(self) -> list[dict[str, Any]]:
        """Precision, recall, F1 and number of images of every class."""
        from sklearn.metrics import precision_recall_fscore_support

        table = self.predictions
        found: Any = precision_recall_fscore_support(
            table.labels, table.predicted, labels=range(len(table.classes)), average=None, zero_division=0.0
        )
        return [
            {
                "class": name,
                "precision": float(found[0][index]),
                "recall": float(found[1][index]),
                "f1": float(found[2][index]),
                "images": int(found[3][index]),
            }
            for index, name in enumerate(table.classes)
        ]

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts `(C, C)`: rows are what the photographs show, columns what was predicted."""
        size = len(self.predictions.classes)
        counts: npt.NDArray[np.int64] = np.zeros((size, size), np.int64)
        np.add.at(counts, (self.predictions.labels, self.predictions.predicted), 1)
        return counts

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        from scipy.stats import binomtest

        found = binomtest(int(self.predictions.correct.sum()), len(self.predictions)).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "data": self.data,
            "split": self.predictions.split,
            "device": self.device,
            "images": len(self.predictions),
            "metrics": self.metrics,
            "accuracy_interval_95": list(self.interval()),
            "per_class": self.per_class(),
            "classes": list(self.predictions.classes),
            "confusion": self.confusion().tolist(),
            "bad_images": [{"path": file.id, "reason": file.reason} for file in self.bad],
        }


def compute_metrics(predictions: Predictions, plugins: Plugins) -> dict[str, float]:
    """Every registered metric by name; a short name that is taken stands under `provider/name`."""
    catalogue = plugins.metrics
    return {
        (entry.name if catalogue.find(entry.name) is entry else entry.qualified): float(
            load_target(entry.value.compute)(predictions)
        )
        for entry in catalogue
    }


def open_images(spec: str, split_seed: int, plugins: Plugins) -> Images:
    """Open `NAME:ARGUMENT`, `NAME`, or the bare path of a folder.

    Raises:
        UsageError: there is neither a dataset nor a folder of that name.
    """
    name, _, argument = spec.partition(":")
    datasets = plugins.datasets
    if name not in datasets:
        if not Path(spec).expanduser().exists() and "/" not in spec and "\\" not in spec and "." not in spec:
            known = [entry.name for entry in datasets]
            raise UsageError(
                f"`{spec}` is neither a folder here nor a dataset",
                hint=did_you_mean(name, known, "see `zoo list datasets`, or pass the path of a folder"),
            )
        name, argument = "folder", spec
    images: Images = load_target(datasets.find(name).value.open)(argument, split_seed)
    return images


def choose_split(images: Images, split: str | None) -> tuple[str, tuple[Sample, ...]]:
    """The samples of a split by role, of the reported one for None, or of `all`.

    Raises:
        UsageError: the data have no such split.
    """
    name = split or images.reported
    if name == "all":
        return name, tuple(sample for samples in images.splits.values() for sample in samples)
    for role in ROLES:
        if role == name and role in images.splits:
            return name, images.splits[role]
    known = " ".join([*images.splits, "all"])
    raise UsageError(f"`{images.name}` has no split `{name}`", hint=f"it has {known}")


def score(
    predictor: Predictor,
    samples: Sequence[Sample],
    split: str,
    *,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Predictions, list[BadFile]]:
    """Decode and predict every sample, from bytes to logits.

    Raises:
        ZooError: the samples show a class that the model does not know, or none can be decoded.
    """
    index = {name: position for position, name in enumerate(predictor.classes)}
    unknown = sorted({sample.label for sample in samples} - set(index))
    if unknown:
        raise ZooError(
            f"class `{unknown[0]}` of the data is unknown to the model ({len(unknown)} such)",
            hint=f"the model knows {' '.join(predictor.classes[:20])}; classes are matched by name",
        )
    ids: list[str] = []
    labels: list[int] = []
    rows: list[npt.NDArray[np.float32]] = []
    bad: list[BadFile] = []
    pending: list[npt.NDArray[np.uint8]] = []

    def flush() -> None:
        if pending:
            rows.append(predictor.logits(pending))
            advance(len(pending))
            pending.clear()

    for sample, result in decode_all(samples, workers):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message.replace(f"`{sample.source}` ", "")))
            continue
        ids.append(sample.id)
        labels.append(index[sample.label])
        pending.append(result)
        if len(pending) == BATCH:
            flush()
    flush()
    if not ids:
        raise ZooError(
            f"no photograph of split `{split}` can be decoded", hint=f"the first: {bad[0].reason}" if bad else None
        )
    table = Predictions(
        split=split,
        classes=predictor.classes,
        ids=tuple(ids),
        labels=np.array(labels, np.int64),
        logits=np.concatenate(rows),
    )
    return table, bad


def open_model(model: Path | str | Run, device: str, plugins: Plugins) -> tuple[Predictor, Run | None]:
    """A predictor for a run (its folder, or opened) or for an exported file; with the run it belongs to, if any.

    Raises:
        UsageError: the path is neither.
    """
    from zoo.run import Run

    if isinstance(model, Run):
        return model.predictor(device, plugins), model
    path = Path(model)
    if path.is_dir():
        run = Run.open(path)
        return run.predictor(device, plugins), run
    if not path.exists():
        raise UsageError(f"there is no run or file `{path}`", hint="a run is a folder that `zoo train` made")
    for entry in plugins.exporters:
        if entry.value.suffix == path.suffix:
            predictor: Predictor = load_target(entry.value.open)(path, device)
            beside = path.parent / "run.json"
            return predictor, Run.open(path.parent) if beside.is_file() else None
    suffixes = " ".join(entry.value.suffix for entry in plugins.exporters)
    raise UsageError(f"`{path}` is no model that zoo can read", hint=f"known are a run's folder, and files {suffixes}")


def evaluate(
    model: Path | str | Run,
    *,
    data: str | None = None,
    split: str | None = None,
    split_seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    plugins: Plugins | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a run or an exported file; every look is written to the run's ledger.

    `data` and `split_seed` default to what the run was trained on, `split` to the split that it reports.

    Raises:
        UsageError: a file without `data`, or a split that is not there.
        ZooError: classes that do not match, or no usable photograph.
    """
    from zoo.plugin import Plugins
    from zoo.scan import default_workers

    plugins = plugins or Plugins()
    predictor, run = open_model(model, device, plugins)
    if data is None:
        if run is None:
            raise UsageError("a file alone does not know its photographs", hint="pass `--data`")
        data = run.experiment.data
    if split_seed is None:
        split_seed = run.experiment.split_seed if run is not None else 0
    images = open_images(data, split_seed, plugins)
    name, samples = choose_split(images, split)
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        advance(done, len(samples))

    predictions, bad = score(predictor, samples, name, workers=workers or default_workers(), advance=step)
    evaluation = Evaluation(
        model=str(run.path if isinstance(model, type(run)) and run is not None else model),
        data=images.name,
        device=predictor.device,
        predictions=predictions,
        metrics=compute_metrics(predictions, plugins),
        bad=tuple(bad),
    )
    if run is not None:
        run.note_look(evaluation)
    return evaluation


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One photograph's classes, most probable first."""

    path: str
    top: tuple[tuple[str, float], ...]  # (class, probability)

    def to_json(self) -> dict[str, Any]:
        label, probability = self.top[0]
        top = [{"label": name, "probability": value} for name, value in self.top]
        return {"path": self.path, "label": label, "probability": probability, "top": top}


def find_photographs(paths: Iterable[str]) -> list[Path]:
    """Files, folders (at any depth) and globs, in order and without repeats.

    Raises:
        UsageError: a path that matches nothing.
    """
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            matches = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists():
            matches = [path]
        else:
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
            matches = [Path(name) for name in names if Path(name).is_file()]
        if not matches:
            what = "holds no photographs" if path.is_dir() else "matches no file"
            raise UsageError(f"`{text}` {what}", hint=f"photographs end in {' '.join(SUFFIXES)}")
        found.update(dict.fromkeys(matches))
    return list(found)


def predict(
    model: Path | str | Run,
    photographs: Sequence[Path | str],
    *,
    top: int = 1,
    device: str = "auto",
    workers: int | None = None,
    plugins: Plugins | None = None,
) -> tuple[list[Prediction], list[BadFile]]:
    """The `top` most probable classes of each photograph, in order, and the files that could not be decoded."""
    from zoo.plugin import Plugins
    from zoo.scan import default_workers

    predictor, _ = open_model(model, device, plugins or Plugins())
    samples = [Sample(str(path), "", Path(path)) for path in photographs]
    found: list[Prediction] = []
    bad: list[BadFile] = []
    pending: list[tuple[str, npt.NDArray[np.uint8]]] = []

    def flush() -> None:
        if pending:
            probabilities = softmax(predictor.logits([pixels for _, pixels in pending]))
            for (name, _), row in zip(pending, probabilities):
                order = np.argsort(-row, kind="stable")[:top]
                found.append(Prediction(path=name, top=tuple((predictor.classes[i], float(row[i])) for i in order)))
            pending.clear()

    for sample, result in decode_all(samples, workers or default_workers()):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message))
            continue
        pending.append((sample.id, result))
        if len(pending) == BATCH:
            flush()
    flush()
    return found, bad
