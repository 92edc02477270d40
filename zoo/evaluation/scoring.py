"""Scoring: from images to metrics, in the same way for a run and for its exported file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import composed, folded
from zoo.data.data_argument import absolute_path
from zoo.data.decoding import BadFile, default_workers
from zoo.data.division import Division, divided_like
from zoo.data.exclusion import match, read_exclusion
from zoo.data.grey_levels import Levels
from zoo.data.groups import group_names
from zoo.data.image import BadImage
from zoo.data.image_content import content_digest
from zoo.data.leakage import digests
from zoo.data.opening import (
    absolute,
    choose_split,
    open_images,
    open_to_score,
    open_unlabelled,
    read_as,
    reading_text,
    spelt_as,
)
from zoo.data.selection import excluded_of
from zoo.dataset import FOLD, Images, Sample, Unlabelled
from zoo.errors import PluginWarning, UsageError, ZooError, ZooWarning, counted, type_and_first_line
from zoo.evaluation.class_scores import class_scores
from zoo.evaluation.statistics import accuracy_interval
from zoo.evaluation.unknown_images import UnknownImages, score_unknown
from zoo.inference.opening import open_model
from zoo.inference.prediction import ImageAnswer, check_levels, levels_text, predict_all
from zoo.predictions import Predictions
from zoo.predictor import Predictor, threshold_of
from zoo.runs.looks import note_look
from zoo.storage.files import SCHEMA
from zoo.storage.paths import data_text
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.runs.run import Run

SAME = 8  # images whose contents are compared to recognise the data of a run in another place


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one model on one split, with the predictions that they were computed from.

    Attributes:
        model: the run's folder, or the exported file.
        data: name of the data.
        metrics: by name; None where a metric is not finite or failed.
        split_seed: with which the data were split.
        fitted: number of the images that the model was fitted on, by their contents; None: unknown, because there is
            no run, or its `splits.json` is missing.
        changed: number of images with an id of the run, and another content than when it was trained.
        levels: grey levels that became black and white, in images of more than 8 bits; None: those of their type.
        bad: files that could not be decoded, or are no images.
        notes: what was decided when the data were opened.
        doubtful: images that are scored though something is wrong with them.
        unknown: figures of images of no class; None: none were given.
    """

    model: str
    data: str
    device: str
    predictions: Predictions
    metrics: dict[str, float | None]
    split_seed: int = 0
    fitted: int | None = None
    changed: int = 0
    excluded: Mapping[str, Any] | None = None
    levels: Levels | None = None
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    doubtful: tuple[BadFile, ...] = ()
    unknown: UnknownImages | None = None

    def per_class(self) -> list[dict[str, Any]]:
        """Precision, recall, F1 and number of images of every class."""
        table = self.predictions
        found = class_scores(table.labels, table.predicted, len(table.classes))
        return [
            {
                "class": name,
                "precision": float(found.precision[index]),
                "recall": float(found.recall[index]),
                "f1": float(found.f1[index]),
                "images": int(found.images[index]),
            }
            for index, name in enumerate(table.classes)
        ]

    def confusion(self) -> npt.NDArray[np.int64]:
        """The confusion matrix `(classes, classes)`: images by true class (rows) and predicted class (columns)."""
        size = len(self.predictions.classes)
        counts: npt.NDArray[np.int64] = np.zeros((size, size), np.int64)
        np.add.at(counts, (self.predictions.labels, self.predictions.predicted), 1)
        return counts

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, by Wilson's method; over groups, where the images have any."""
        return accuracy_interval(self.predictions)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "data": self.data,
            "split": self.predictions.split,
            "split_seed": self.split_seed,
            "fitted_on": self.fitted,
            "exclude": self.excluded,
            "device": self.device,
            "images": len(self.predictions),
            "levels": None if self.levels is None else list(self.levels),
            "metrics": self.metrics,
            "accuracy_interval_95": list(self.interval()),
            "per_class": self.per_class(),
            "classes": list(self.predictions.classes),
            "confusion": self.confusion().tolist(),
            "bad_images": [{"path": file.id, "reason": file.reason} for file in self.bad],
            "doubtful_images": [{"path": file.id, "reason": file.reason} for file in self.doubtful],
            "notes": list(self.notes),
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
        }


def compute_metrics(predictions: Predictions, plugins: Plugins) -> dict[str, float | None]:
    """Compute every registered metric; returns values by name, or by `provider/name` where providers share a name.

    A metric that raises, or is not finite, is None and gives a `PluginWarning`, so that it cannot end a training run.

    Raises:
        ZooError: the same, where plugins are loaded strictly (`ZOO_STRICT_PLUGINS`).
    """
    catalogue = plugins.metrics
    found: dict[str, float | None] = {}
    for entry in catalogue:
        name = entry.name if catalogue.find(entry.name) is entry else entry.qualified
        try:
            value = float(load_target(entry.value.compute)(predictions))
            reason = "" if math.isfinite(value) else f"it gave {value}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything
            reason = type_and_first_line(error)
        if reason:
            told = f"plugin `{entry.provider}`: metric `{name}` failed: {reason}"
            if plugins.strict:
                raise ZooError(told)
            warnings.warn(told, PluginWarning, stacklevel=2)
        found[name] = None if reason else value
    return found


def score(
    predictor: Predictor,
    samples: Sequence[Sample],
    split: str,
    *,
    workers: int,
    levels: Levels | None = None,
    advance: Callable[[int], None] = lambda count: None,
    remark: Callable[[Sample, str], None] = lambda sample, text: None,
) -> tuple[Predictions, list[BadFile]]:
    """Decode and classify every sample; returns the predictions, and the files that could not be decoded.

    Args:
        predictor: classifies the images.
        samples: images with their labels.
        split: name of the split, for the table of predictions.
        workers: threads that decode images.
        levels: grey levels that become black and white; None: those of the model.
        advance: called with the number of images classified.
        remark: called, by any thread, with what was wrong with an image that is scored nevertheless.

    Raises:
        ZooError: a label is not a class of the model, or no image can be decoded.
    """
    index = {composed(name): position for position, name in enumerate(predictor.classes)}
    index |= {name: position for position, name in enumerate(predictor.classes)}
    spelt = {name: name if name in index else composed(name) for name in {sample.label for sample in samples}}
    unknown = sorted(name for name in spelt if spelt[name] not in index)
    if unknown:
        alike = [name for name in predictor.classes if folded(name) == folded(unknown[0])]
        like = f"it has `{alike[0]}`, which differs in case or spaces; " if alike else ""
        raise ZooError(
            f"the model has no class `{unknown[0]}` "
            f"({counted(len(unknown), 'class of the data is', 'classes of the data are')} unknown to it)",
            hint=f"{like}the model's classes are {' '.join(predictor.classes[:20])}; classes are matched by name",
        )
    ids: list[str] = []
    kept: list[Sample] = []
    labels: list[int] = []
    rows: list[ImageAnswer] = []
    bad: list[BadFile] = []
    for sample, result in predict_all(
        predictor, samples, workers=workers, levels=levels, advance=advance, remark=remark
    ):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message.replace(f"`{sample.source}` ", "")))
            continue
        ids.append(sample.id)
        kept.append(sample)
        labels.append(index[spelt[sample.label]])
        rows.append(result)
    if not ids:
        raise ZooError(
            f"no photograph of split `{split}` can be decoded", hint=f"the first: {bad[0].reason}" if bad else None
        )
    table = Predictions(
        split=split,
        classes=predictor.classes,
        ids=tuple(ids),
        labels=np.array(labels, np.int64),
        logits=np.stack([row.logits for row in rows]),
        groups=group_names(kept),
        unknown=None if rows[0].unknown is None else np.array([row.unknown for row in rows], np.float32),
    )
    return table, bad


def evaluate(
    model: Path | str | Run,
    *,
    data: Path | str | None = None,
    split: str | None = None,
    split_seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    levels: Levels | None = None,
    exclude: Path | str | None = None,
    unknown: Path | str | None = None,
    plugins: Plugins | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a run or an exported file on a split; every evaluation is written to the run's ledger.

    An evaluation of a study's trial on the locked images is written to the study's ledger, too.

    Args:
        model: a run, its folder, or an exported file.
        data: the data to evaluate on; None: those of the run. The classes of a folder are its lowest or its highest
            folders, as in the data of the run; `folder:`, `folder-leaf:` or `folder-top:` before the path says else.
        split: None: the split that the data report, `val` where there is one, else `test`; of other data than the run's
            that come without splits, all images.
        split_seed: with which the data are split; None: that of the run, else 0.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: threads that decode images; None: chosen by the number of processors.
        levels: grey levels that become black and white, in images of more than 8 bits; None: those that the model was
            trained with.
        exclude: CSV file of images that are left out, see `zoo.data.exclusion`; those that the run left out of its own
            data stay out of them without it.
        unknown: data with images of no class, whose labels are not looked at: how well they are told from those of the
            split, by a model that was trained with `unknown_rate`.
        plugins: loaded plugins; None: load those installed.
        advance: called with the number of images classified so far, and the number of all images.

    Raises:
        UsageError: `data` is missing for a file without a run, the split does not exist, or `levels` are not two
            numbers of which the first is lower; or `unknown` is given and the model has no threshold.
        ZooError: the classes do not match, or no image can be decoded.
    """
    from zoo.plugin import Plugins

    return _evaluate(
        model,
        data=data,
        split=split,
        split_seed=split_seed,
        device=device,
        workers=workers,
        levels=levels,
        exclude=exclude,
        unknown=unknown,
        plugins=plugins or Plugins(),
        advance=advance,
    )


def evaluate_trial(run: Run, split: str, plugins: Plugins) -> Evaluation:
    """Evaluate a trial for the study that it belongs to, which writes its own ledger; see `evaluate`."""
    return _evaluate(run, split=split, plugins=plugins, by_study=True)


def score_again(run: Run, data: str, split: str | None, plugins: Plugins) -> Evaluation:
    """Evaluate a run on the CPU to compare a file with it; see `evaluate`. Nothing is written, to no ledger."""
    return _evaluate(run, data=data, split=split, device="cpu", plugins=plugins, noted=False)


def _evaluate(
    model: Path | str | Run,
    *,
    data: Path | str | None = None,
    split: str | None = None,
    split_seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    levels: Levels | None = None,
    exclude: Path | str | None = None,
    unknown: Path | str | None = None,
    by_study: bool = False,
    noted: bool = True,
    plugins: Plugins,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """See `evaluate`.

    Args beyond those:
        by_study: whether the study asks whose trial the run is, and writes its own ledger.
        noted: whether the evaluation is written to ledgers, and its predictions are stored.
    """
    given = check_levels(levels)
    predictor, run = open_model(model, device, plugins)
    strangers = None if unknown is None else _open_unknown(predictor, model, data_text(unknown), plugins)
    if data is None:
        if run is None:
            raise UsageError(f"`{model}` belongs to no run, so its data are unknown", hint="pass `--data`")
        data = run.experiment.data
        if run.is_final and split is None:
            raise UsageError(
                f"run `{run.path}` was trained on all images that are not in `test`; its figures are those of "
                f"`{run.record['final']['run']}`",
                hint="pass `--split test` where the data have one, or `--data` with other images",
            )
        if split == "":
            raise UsageError("`--split` is empty", hint="leave it out for the split that the run reports")
    if split_seed is None:
        split_seed = run.experiment.split_seed if run is not None else 0
    text = data_text(data)
    spec = read_as(run.experiment.data, text, plugins) if run is not None else text
    reading = reading_text(spec) if spec != text else None
    images, name, samples = _open(spec, split, split_seed, run, plugins)
    images, samples, excluded = _left_out(images, samples, run, exclude)
    known = run.contents() if run is not None else {}
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        advance(done, len(samples) + (0 if strangers is None else len(strangers.samples)))

    doubts: dict[str, str] = {}
    try:
        predictions, bad = score(
            predictor,
            samples,
            name,
            workers=workers or default_workers(),
            levels=given,
            advance=step,
            remark=lambda sample, text: doubts.update({sample.id: f"{doubts.get(sample.id, '')} {text}".strip()}),
        )
    except ZooError as error:
        if reading is None:
            raise
        raise ZooError(error.message, hint=f"{reading}; {error.hint}" if error.hint else reading) from error
    held = set(predictions.ids)
    scored = digests(sample for sample in samples if sample.id in held) if run is not None else ()
    contents = {sample.id: digest for sample, digest in scored}
    fitted = set(known.get("fit", {}).values())
    changed = sum(contents.get(name, was) != was for part in known.values() for name, was in part.items())
    was = run.record.get("data_files", {}) if run is not None else {}
    tables = [file for file, digest in images.files.items() if was.get(absolute_path(file), digest) != digest]
    own_levels = predictor.preprocess.levels
    said = levels_text(given, own_levels)
    evaluation = Evaluation(
        model=str(run.path if run is not None and model is run else model),
        data=images.name,
        device=predictor.device,
        predictions=predictions,
        metrics=compute_metrics(predictions, plugins),
        split_seed=split_seed,
        excluded=excluded,
        fitted=sum(digest in fitted for digest in contents.values()) if known else None,
        changed=changed,
        bad=(*_rejected(images, samples), *bad),
        levels=given or own_levels,
        notes=(*images.notes, *(text for text in (reading, said) if text)),
        doubtful=tuple(BadFile(sample.id, doubts[sample.id]) for sample in samples if sample.id in doubts),
    )
    if strangers is not None:
        held = set(known.get("reported", known.get("choose", {})).values())
        figures = score_unknown(
            predictor,
            strangers,
            predictions,
            workers=workers or default_workers(),
            levels=given,
            fitted=fitted if known else None,
            scored=set(contents.values()),
            held=sum(digest in held for digest in contents.values()) if known else None,
            advance=step,
        )
        evaluation = replace(evaluation, unknown=figures)
    if run is not None and noted:
        try:
            run.note_look(
                evaluation.predictions,
                model=evaluation.model,
                data=evaluation.data,
                split_seed=evaluation.split_seed,
                accuracy=evaluation.metrics.get("accuracy"),
                changed=changed > 0 or bool(tables) or evaluation.levels != own_levels,
                unknown=None if evaluation.unknown is None else evaluation.unknown.to_json(),
            )
            study = None if by_study else note_look(run, name, contents.values(), evaluation.metrics.get("accuracy"))
            if study is not None:
                warnings.warn(
                    f"this is an evaluation on the locked images of study `{study}`, and is written to its ledger: a "
                    "configuration that is chosen by it will have too optimistic figures",
                    stacklevel=3,
                )
            if tables:
                warnings.warn(
                    f"`{tables[0]}` has changed since the run was trained, so labels and splits may be others, and its "
                    "stored predictions stay",
                    stacklevel=3,
                )
            elif changed and images.name == run.data_name:
                warnings.warn(
                    f"{counted(changed, 'image has', 'images have')} changed since the run was trained, so its stored "
                    "predictions stay",
                    stacklevel=3,
                )
        except ZooError as error:
            warnings.warn(f"the evaluation is not in the run's ledger: {error.message}", ZooWarning, stacklevel=3)
    return evaluation


def _open_unknown(predictor: Predictor, model: object, spec: str, plugins: Plugins) -> Unlabelled:
    """The images of no class, for a model that can tell them.

    Raises:
        UsageError: the model has no threshold, or there are no such data.
        ZooError: there are no images in them.
    """
    if not spec:
        raise UsageError("`--unknown` is empty", hint="pass a folder of images that are of no class")
    if threshold_of(predictor) is None:
        shown = model.path if hasattr(model, "path") else model
        raise UsageError(
            f"`{shown}` has no threshold for unknown images, so `--unknown` cannot be scored",
            hint="train with `--unknown-rate 0.01`, and export that run",
        )
    found = open_unlabelled(spec, plugins)
    if not found.samples:
        raise ZooError(f"`{found.name}` has no images", hint="pass a folder of images that are of no class")
    return found


def _open(
    data: str, split: str | None, split_seed: int, run: Run | None, plugins: Plugins
) -> tuple[Images, str, Sequence[Sample]]:
    """The data, and the name and samples of the split to score.

    Data without splits are scored whole, unless they are the run's own, which must be split as they were for training,
    or a split is named.
    """
    of_run = run is not None and data == run.experiment.data

    def opened(open: Callable[..., Images], same: bool) -> Images:
        """The images; with the run's groups, if they are those of the run."""
        group = run.experiment.group if same and run is not None else None
        images = open(data, split_seed, plugins, of_run=of_run, group=group)
        known = [name for part in run.contents().values() for name in part] if run is not None else []
        return spelt_as(images, known, run.classes) if run is not None else images

    images = opened(open_to_score, of_run)
    same = of_run or (run is not None and _is_data_of(run, images, data, plugins))
    if run is not None and same and not of_run:
        if divides := _divides(run, data):
            data = divided_like(run.experiment.data, data, words=not run.is_final)
        if divides or run.experiment.group is not None:
            images = opened(open_to_score, True)
    if images.drawn:
        own = of_run
        if run is not None and same and not own:
            divided = opened(open_images, True)  # as for training
            own = not run.fitted() & {sample.id for sample in divided.splits.get(divided.reported, ())}
        if own or split not in (None, "all"):
            images = opened(open_images, same)
        elif split is None:
            name, samples = choose_split(images, "all")
            whole = f"`{data}` comes without splits, so it is scored whole: {counted(len(samples), 'image')}"
            return replace(images, notes=(*images.notes, whole)), name, samples
    elif split is None and images.reported not in images.splits:
        split = "all"
    return images, *choose_split(images, split)


def _divides(run: Run, data: str) -> bool:
    """Whether a run's data were divided by a table, or for folds, and the text of other data says nothing of it."""
    own, other = Division.of(run.experiment.data), Division.of(data)
    return (own.table is not None or FOLD in own.words) and other.table is None and not other.words


def _left_out(
    images: Images, samples: Sequence[Sample], run: Run | None, exclude: Path | str | None
) -> tuple[Images, Sequence[Sample], dict[str, Any] | None]:
    """The images and samples without those that the run left out of them, and without those of a list.

    Also what is recorded of the list.

    Raises:
        ZooError: no image is left.
    """
    gone = excluded_of(run.record) & {sample.id for sample in samples} if run is not None else set()
    if gone:
        what = counted(len(gone), "image is", "images are")
        text = f"{what} left out, as in training (`--exclude` or `--on-leak drop`)"
        images = replace(images, notes=(*images.notes, text))
    recorded = None
    if exclude is not None:
        exclusion = read_exclusion(exclude)
        found, notes = match(images, exclusion)
        images = replace(images, notes=(*images.notes, *notes))
        recorded, gone = exclusion.to_json(found), gone | found
    kept = tuple(sample for sample in samples if sample.id not in gone)
    if not kept:
        raise ZooError(f"all images of `{images.name}` that would be scored are left out")
    return images, kept, recorded


def _is_data_of(run: Run, images: Images, data: str, plugins: Plugins) -> bool:
    """Whether these are the data that a run was trained on, under another spelling or in another place."""
    if absolute(data, plugins) == run.experiment.data:
        return True
    fitted = run.fitted()
    found = {sample.id: sample for samples in images.splits.values() for sample in samples}
    if not fitted or not fitted <= set(found):
        return False
    splits = run.splits()
    digests = dict(zip(splits["roles"]["fit"], splits.get("sha256", {}).get("fit", ())))
    some = list(digests.items())[:SAME]
    try:
        return bool(some) and all(content_digest(found[name].source).hex() == digest for name, digest in some)
    except OSError:
        return False


def _rejected(images: Images, samples: Sequence[Sample]) -> list[BadFile]:
    """Files that are no images, in the top folders of the samples that are scored."""
    tops = {sample.id.partition("/")[0] for sample in samples}
    return [BadFile(name, reason) for name, reason in images.rejected if name.partition("/")[0] in tops]
