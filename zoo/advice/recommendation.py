"""Recommendation: a shortlist of backbones, each with a strategy, from one forward pass of the training images.

A shortlist is not a winner: estimates of transferability are better than chance, but often wrong. They are therefore
given with their track record in past studies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.advice.borrowed_distance import BorrowedDistance, borrowed_distance
from zoo.advice.image_sample import BATCH, chosen_images
from zoo.advice.strategy_suggestion import StageAdvice, suggest_strategy
from zoo.advice.track_record import ADVICE_FILE, SHORTLIST, track_record
from zoo.config.context import Context
from zoo.config.references import look_up
from zoo.data.groups import group_numbers
from zoo.data.opening import note_images
from zoo.data.selection import select_images
from zoo.dataset import LOCKED
from zoo.errors import UsageError, ZooError, at_once
from zoo.evaluation.statistics import bootstrap_interval
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.preprocess import Colour, FitSetting, ImageSize
from zoo.progress import Progress, Silent
from zoo.runs.kept_list import with_kept_list
from zoo.runs.run import now
from zoo.storage.files import SCHEMA, write_json
from zoo.studies.results import Results

if TYPE_CHECKING:
    from zoo.backbone import Network

# A study's settings that change the advice
OF_A_STUDY = (
    *("split_seed", "device", "image_size", "fit", "fill", "levels", "weights", "workers"),
    *("group", "exclude", "on_leak", "leak_check", "on_bad_image"),
)


@dataclass(frozen=True, kw_only=True)
class BackboneAdvice:
    """Estimates for one backbone, and the strategy that they suggest.

    Attributes:
        backbone: Qualified name.
        top1: Published ImageNet accuracy of the weights. None: not known.
        logme: LogME of the features that the head gets.
        h_score: H-score of these features.
        knn: Accuracy of the nearest neighbours in these features.
        probe: Accuracy of a linear probe on these features.
        interval: 95 % interval of the probe's accuracy.
        stages: Estimates for each stage, from input to output.
        distance: Distance from the pretraining data in nats, the mean over stages. None: not known.
        distance_by: The backbones that measured the distance where it has no batch norms. None: itself, or none did.
        strategy: The suggested strategy.
        reason: Why it is suggested, in one sentence.
        rank: The mean of the backbone's ranks by each estimate; 1 is the best.
        seconds: Seconds that the estimates took.
    """

    backbone: str
    top1: float | None
    logme: float
    h_score: float
    knn: float
    probe: float
    interval: tuple[float, float]
    stages: tuple[StageAdvice, ...]
    distance: float | None
    distance_by: tuple[str, ...] | None
    strategy: str
    reason: str
    rank: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Recommended backbones, best mean rank first.

    Attributes:
        data: The data that the advice is for.
        images: Number of images that the estimates were computed from.
        classes: Class names.
        backbones: Advice for each backbone.
        failures: Why there is no advice for the others, by backbone.
        record: How advice agreed with the results of past studies. None: there is no such study.
    """

    data: str
    images: int
    classes: tuple[str, ...]
    backbones: tuple[BackboneAdvice, ...]
    failures: Mapping[str, str]
    record: Mapping[str, Any] | None

    @property
    def shortlist(self) -> tuple[str, ...]:
        """The first few backbones."""
        return tuple(one.backbone for one in self.backbones[:SHORTLIST])

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "time": now(),
            "data": self.data,
            "images": self.images,
            "classes": list(self.classes),
            "shortlist": list(self.shortlist),
            "backbones": {one.backbone: asdict(one) for one in self.backbones},
            "failures": dict(self.failures),
            "record": self.record,
        }


def advise(
    data: str | None = None,
    backbones: Sequence[str] = (),
    *,
    study: Path | str | None = None,
    studies: Path | str = "runs",
    weights: str = "default",
    split_seed: int = 0,
    device: str = "auto",
    image_size: ImageSize | None = None,
    fit: FitSetting | None = None,
    fill: Colour | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Rank backbones for a set of images and suggest a strategy for each, without training.

    Only training images are used, at most 2,000.

    Args:
        data: Images: a folder, or `NAME:ARGUMENT` of a dataset. None: those of `study`.
        backbones: Names of backbones. Empty: those of `study`.
        study: Folder of a study that gives data, backbones and settings. The advice is kept in it, for its report and
            for the track record.
        studies: Folder of past studies, for the track record.
        weights: Weights of the backbones: `default`, `none`, a published tag, or a file.
        split_seed: Seed of the split, where the data have none of their own.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        image_size: Size of the networks' input, as of an `Experiment`. None: the study's, or each backbone's own.
        fit: How an image becomes that size, as of an `Experiment`. None: the study's, or each backbone's own.
        fill: The colour of `pad`, as of an `Experiment`. None: the study's, or the mean colour.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: names are unknown (all are reported at once), or there are no data or no backbones.
        ZooError: there is no backbone for which the estimates could be computed.
    """
    context = Context.of(plugins, progress)
    plugins, progress = context.plugins, context.progress
    settings: dict[str, Any] = {"weights": weights, "split_seed": split_seed, "device": device}
    if study is not None:
        if data is not None:
            raise UsageError("`--study` has data of its own", hint="pass either `--data` or `--study`")
        described = Results.open(study).study
        data = described.data
        backbones = backbones or [*described.backbones, *(one for one, _ in described.also)]
        settings |= {name: described.settings[name] for name in OF_A_STUDY if name in described.settings}
    asked_for = {"image_size": image_size, "fit": fit, "fill": fill}
    settings |= {name: value for name, value in asked_for.items() if value is not None}
    if data is None:
        raise UsageError("no photographs were given", hint="pass `--data`, or `--study`")
    if not backbones:
        raise UsageError("no backbone was given", hint="pass `--backbone`, several times for several")
    spec = data if data.startswith(f"{LOCKED}:") else f"{LOCKED}:{data}"
    asked = [Experiment(data=spec, backbone=name, strategy="linear", **settings) for name in dict.fromkeys(backbones)]
    problems: list[UsageError] = []
    for experiment in asked:
        try:
            look_up(experiment, plugins)
        except UsageError as error:
            problems.append(error)
    if problems:
        raise at_once(problems)
    if study is not None:
        asked = [with_kept_list(experiment, Results.open(study).path) for experiment in asked]
    note_images(select_images(asked[0], plugins, look=False).images, progress)
    faults_told = False
    estimates: list[_Estimates] = []
    failures: dict[str, str] = {}
    hints: list[str | None] = []
    for experiment in asked:
        try:
            estimates.append(_estimate(experiment, plugins, progress, tell_faults=not faults_told))
            faults_told = True
        except ZooError as error:
            failures[experiment.backbone] = error.message
            hints.append(error.hint)
            progress.warn(f"{experiment.backbone}: {error.message}")
    if not estimates:
        first = next(iter(failures.values()))
        raise ZooError(
            f"no backbone could be evaluated; the first: {first}",
            hint=hints[0] or "`--weights FILE` takes weights from a file",
        )
    ranks = mean_ranks(
        {name: [getattr(one, name) for one in estimates] for name in ("top1", "logme", "h_score", "knn")}
    )
    borrowed = None
    if any(one.lacks_distance for one in estimates):
        known = {one.backbone: one.distance for one in estimates if one.distance is not None}
        borrowed = borrowed_distance(known, asked[0], plugins, progress)
    found = [_advice(one, rank, borrowed if one.lacks_distance else None) for one, rank in zip(estimates, ranks)]
    advice = Advice(
        data=data,
        images=estimates[0].images,
        classes=estimates[0].classes,
        backbones=tuple(sorted(found, key=lambda one: one.rank)),
        failures=failures,
        record=track_record(Path(studies)),
    )
    if study is not None:
        write_json(Results.open(study).path / ADVICE_FILE, advice.to_json())
    return advice


@dataclass(frozen=True, kw_only=True)
class _Estimates:
    """The fields of a `BackboneAdvice` that are known before backbones are ranked, and what the others depend on.

    Attributes:
        right: Which images each probe classified correctly, by stage, and by the head's input under `features`.
        lacks_distance: Whether it has published weights, and no batch norms with statistics of its pretraining data.
    """

    backbone: str
    top1: float | None
    logme: float
    h_score: float
    knn: float
    probe: float
    interval: tuple[float, float]
    stages: tuple[StageAdvice, ...]
    distance: float | None
    seconds: float
    images: int
    classes: tuple[str, ...]
    right: Mapping[str, npt.NDArray[np.bool_]]
    lacks_distance: bool


_OF_ESTIMATES_ALONE = ("images", "classes", "right", "lacks_distance")


def _advice(one: _Estimates, rank: float, borrowed: BorrowedDistance | None) -> BackboneAdvice:
    strategy, reason = suggest_strategy(one.stages, one.right, borrowed)
    own = {key: value for key, value in vars(one).items() if key not in _OF_ESTIMATES_ALONE}
    if borrowed is not None:
        own["distance"] = borrowed.value
    by = borrowed.by if borrowed is not None else None
    return BackboneAdvice(**own, distance_by=by, strategy=strategy, reason=reason, rank=rank)


def _estimate(experiment: Experiment, plugins: Plugins, progress: Progress, *, tell_faults: bool) -> _Estimates:
    """Compute the estimates for one backbone, from one forward pass of the training images.

    With `tell_faults`, what is wrong with the images is said: those that are left out, doubtful, or in two places.
    """
    import torch
    from threadpoolctl import threadpool_limits

    from zoo.advice.domain_distance import NormRecorder, by_stage
    from zoo.advice.probing import StageRecorder, probe
    from zoo.advice.transferability import h_score, knn_accuracy, logme
    from zoo.data.augmentation import PLAIN
    from zoo.feature_cache.loader import AugmentedViews
    from zoo.training.held_out_folds import held_out_folds
    from zoo.training.preparation import prepare, warn_of_images
    from zoo.training.setup import resolve

    began = perf_counter()
    setup = resolve(experiment, plugins)
    job = prepare(experiment, setup, Context.of(plugins, Silent()))
    if tell_faults:
        warn_of_images(job, progress)
    part, place = job.decoded["fit"], setup.device.place
    chosen = chosen_images(part)
    labels = np.asarray(part.labels)[chosen]
    groups = group_numbers([part.samples[index] for index in chosen])
    folds, lacking = held_out_folds(labels, 0, groups)
    if not folds:
        raise ZooError(
            f"a probe needs two classes with two training images: {lacking}",
            hint="add images, or merge classes",
        )
    if lacking and tell_faults:
        progress.note(f"probes: {lacking}")
    model = job.network.model.to(place).eval()
    if not (setup.weights or setup.weights_file):
        progress.warn(f"{setup.backbone.name} has random weights, so its estimates are not about learnt features")
    source = AugmentedViews(part, PLAIN, 0, setup.preprocess, place)
    progress.start(f"features of {setup.backbone.name}", len(chosen))
    head: list[npt.NDArray[np.float32]] = []
    with (
        StageRecorder(job.network) as recorder,
        NormRecorder(job.network) as norms,
        _head_inputs(job.network, head),
        torch.no_grad(),
    ):
        for start in range(0, len(chosen), BATCH):
            indices = chosen[start : start + BATCH]
            recorder.record(source.inputs(indices, [0] * len(indices)))
            progress.advance(len(indices))
    progress.stop()
    features = recorder.features()
    last = np.concatenate(head).astype(np.float64) if head else list(features.values())[-1]
    # random weights come with batch norm statistics of no data
    pretrained = setup.weights is not None or setup.weights_file is not None
    distances = by_stage(job.network, norms.distances()) if pretrained else {}
    # on matrices of this size, threads cost more by waiting for one another than they save
    with threadpool_limits(1, user_api="blas"):
        right = {name: probe(values, labels, groups=groups) for name, values in features.items()}
        right["features"] = probe(last, labels, groups=groups)  # the head's input: the pooled output of the last stage
        estimates = {"logme": logme(last, labels), "h_score": h_score(last, labels), "knn": knn_accuracy(last, labels)}
    count = len(features)
    stages = tuple(
        StageAdvice(
            name=name,
            depth=(number + 1) / count,
            width=features[name].shape[1],
            accuracy=float(right[name].mean()),
            interval=bootstrap_interval(right[name][None]),
            distance=distances.get(name),
        )
        for number, name in enumerate(features)
    )
    known = [one.distance for one in stages if one.distance is not None]
    anatomy = job.network.anatomy
    del model
    return _Estimates(
        backbone=setup.backbone.qualified,
        top1=setup.weights.top1 if setup.weights is not None else None,
        **estimates,
        probe=float(right["features"].mean()),
        interval=bootstrap_interval(right["features"][None]),
        stages=stages,
        distance=float(np.mean(known)) if known else None,
        seconds=round(perf_counter() - began, 2),
        images=len(chosen),
        classes=job.images.classes,
        right=right,
        lacks_distance=setup.weights is not None and not known and any(one.parameters for one in anatomy.stages),
    )


@contextmanager
def _head_inputs(network: Network, kept: list[npt.NDArray[np.float32]]) -> Iterator[None]:
    """Append the head's inputs `(N, D)` to `kept` inside the block, where they are one vector per image."""
    from zoo.networks.head import find_head

    def keep(module: Any, inputs: Any) -> None:
        if inputs[0].ndim == 2:
            kept.append(inputs[0].float().cpu().numpy())

    try:
        handle = find_head(network).register_forward_pre_hook(keep)
    except UsageError:  # the head has several layers
        yield
        return
    try:
        yield
    finally:
        handle.remove()


def mean_ranks(estimates: Mapping[str, Sequence[float | None]]) -> list[float]:
    """Mean of the ranks by each estimate, 1 for the best; an estimate that is missing for one is left out for all."""
    from scipy.stats import rankdata

    ranks = [
        rankdata([-value for value in values if value is not None])
        for values in estimates.values()
        if all(value is not None for value in values)
    ]
    found = np.mean(ranks, axis=0)
    return [float(value) for value in found]
