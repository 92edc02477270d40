"""Scoring: from images to metrics, in the same way for a run and for its exported file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.class_names import composed, folded
from zoo.data.data_argument import absolute_path
from zoo.data.decoding import BadFile, default_workers
from zoo.data.grey_levels import Levels
from zoo.data.groups import group_names
from zoo.data.image import BadImage
from zoo.data.leakage import digests
from zoo.data.opening import read_as, reading_text
from zoo.dataset import Sample
from zoo.errors import UsageError, ZooError, ZooWarning, counted
from zoo.evaluation.costs import compare_costs, read_costs
from zoo.evaluation.evaluation import Evaluation, defined_metrics
from zoo.evaluation.operating_point import halves, operating_point, parse_goal
from zoo.evaluation.scored_images import (
    CHOOSING,
    images_to_choose_on,
    open_scored,
    open_unknown,
    rejected_among,
    without_left_out,
)
from zoo.evaluation.unknown_images import score_unknown
from zoo.inference.opening import open_model, run_of_file
from zoo.inference.prediction import ImageAnswer, check_levels, levels_text, predict_all
from zoo.predictions import Predictions
from zoo.predictor import Predictor
from zoo.runs.lineage import seen_by
from zoo.runs.looks import note_look
from zoo.storage.paths import data_text

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.runs.run import Run


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
    at: Sequence[str] = (),
    costs: Path | str | None = None,
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
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: threads that decode images; None: chosen by the number of processors.
        levels: grey levels that become black and white, in images of more than 8 bits; None: those that the model was
            trained with.
        exclude: CSV file of images that are left out, see `zoo.data.exclusion`; those that the run left out of its own
            data stay out of them without it.
        unknown: data with images of no class, whose labels are not looked at: how well they are told from those of the
            split, by a model that was trained with `unknown_rate`.
        at: operating points, such as `bees:recall=0.95`: the threshold of a class's probability for a precision or
            recall. It is chosen on `val` where `test` is scored, else on half of the images, and reported on the
            others.
        costs: CSV file with the cost of each decision (columns) for each true class (rows), by their names: what the
            decisions of the lowest expected cost cost on average, and the most probable classes.
        plugins: loaded plugins; None: load those installed.
        advance: called with the number of images classified so far, and the number of all images.

    Raises:
        UsageError: `data` is missing for a file without a run, the split does not exist, or `levels` are not two
            numbers of which the first is lower; `unknown` is given and the model has no threshold; or `at` or `costs`
            cannot be read or name other classes than the model's.
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
        at=at,
        costs=costs,
        plugins=plugins or Plugins(),
        advance=advance,
    )


def evaluate_trial(run: Run, split: str, plugins: Plugins) -> Evaluation:
    """Evaluate a trial for the study that it belongs to, which writes its own ledger; see `evaluate`."""
    return _evaluate(run, split=split, plugins=plugins, by_study=True)


def score_again(run: Run, data: str, split: str | None, plugins: Plugins) -> Evaluation:
    """Evaluate a run on the CPU to compare a file with it; see `evaluate`. Nothing is written, to no ledger."""
    return _evaluate(run, data=data, split=split, device="cpu", plugins=plugins, noted=False)


def evaluate_opened(
    predictor: Predictor,
    file: Path,
    *,
    data: str,
    split: str,
    split_seed: int,
    plugins: Plugins,
    advance: Callable[[int, int], None],
) -> Evaluation:
    """Evaluate an exported file as `evaluate` does, by a predictor that has opened it."""
    return _evaluate(
        file, data=data, split=split, split_seed=split_seed, plugins=plugins, advance=advance, opened=predictor
    )


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
    at: Sequence[str] = (),
    costs: Path | str | None = None,
    by_study: bool = False,
    noted: bool = True,
    opened: Predictor | None = None,
    plugins: Plugins,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """See `evaluate`.

    Args beyond those:
        by_study: whether the study asks whose trial the run is, and writes its own ledger.
        noted: whether the evaluation is written to ledgers, and its predictions are stored.
        opened: a predictor of `model`, which is a file; None: it is opened.
    """
    given = check_levels(levels)
    if opened is None:
        predictor, run = open_model(model, device, plugins)
    else:
        predictor, run = opened, run_of_file(Path(str(model)))
    strangers = None if unknown is None else open_unknown(predictor, model, data_text(unknown), plugins)
    goals = [parse_goal(one, predictor.classes) for one in at]
    matrix = None if costs is None else read_costs(costs, predictor.classes)
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
    images, name, samples = open_scored(spec, split, split_seed, run, plugins)
    images, samples, excluded = without_left_out(images, samples, run, exclude)
    known = run.contents() if run is not None else {}
    choosing = images_to_choose_on(images, name, run, exclude) if goals else ()
    done, total = 0, len(samples) + len(choosing) + (0 if strangers is None else len(strangers.samples))

    def step(count: int) -> None:
        nonlocal done
        done += count
        advance(done, total)

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
    fitted = seen_by(run)[0] if run is not None and known else frozenset()
    changed = sum(contents.get(name, was) != was for part in known.values() for name, was in part.items())
    was = run.record.get("data_files", {}) if run is not None else {}
    tables = [file for file, digest in images.files.items() if was.get(absolute_path(file), digest) != digest]
    own_levels = predictor.preprocess.levels
    said = levels_text(given, own_levels)
    metrics, undefined = defined_metrics(predictions, plugins)
    evaluation = Evaluation(
        model=str(run.path if run is not None and model is run else model),
        data=images.name,
        device=predictor.device,
        predictions=predictions,
        metrics=metrics,
        undefined=undefined,
        split_seed=split_seed,
        excluded=excluded,
        fitted=sum(digest in fitted for digest in contents.values()) if known else None,
        changed=changed,
        bad=(*rejected_among(images, samples), *bad),
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
    if goals:
        chosen, reported = halves(predictions)
        where = f"half of {name}"
        if choosing:
            reported, where = predictions, CHOOSING
            chosen, _ = score(
                predictor, choosing, where, workers=workers or default_workers(), levels=given, advance=step
            )
        points = tuple(operating_point(goal, chosen, where, reported) for goal in goals)
        evaluation = replace(evaluation, points=points)
    if matrix is not None:
        evaluation = replace(evaluation, costs=compare_costs(predictions, matrix, Path(str(costs)).name))
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
