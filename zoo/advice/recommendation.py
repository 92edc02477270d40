"""Advising: what one forward pass of the photographs says of backbones and strategies, before anything is trained.

It names a shortlist, never a winner: estimates of transferability are right more often than not, and no more. Their
track record in studies that were carried out stands beside them.
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

from zoo.advice.track_record import ADVICE_FILE, SHORTLIST, track_record
from zoo.config.context import Context
from zoo.config.references import look_up
from zoo.data.decoding import DecodedImages
from zoo.data.splitting import stratified_subset
from zoo.dataset import LOCKED
from zoo.errors import UsageError, ZooError, at_once
from zoo.evaluation.significance import p_value
from zoo.evaluation.statistics import bootstrap_interval
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress, Silent
from zoo.runs.run import now
from zoo.storage.files import SCHEMA, write_json
from zoo.studies.results import Results

if TYPE_CHECKING:
    from zoo.backbone import Network

MOST_IMAGES = 2000  # that are looked at: a probe's interval is then 2 points wide, and the pass takes a minute
BATCH = 32
LEVEL = 0.05
OF_A_STUDY = ("split_seed", "device", "image_size", "weights", "workers")  # settings that change what is seen
ROOM = 0.97  # a probe beyond it leaves a strategy nothing to win that could be told apart


@dataclass(frozen=True, kw_only=True)
class StageAdvice:
    """What a network knows after a stage: the accuracy of a linear probe, and how far the source data are."""

    name: str
    depth: float  # share of the stages up to here
    width: int
    accuracy: float
    interval: tuple[float, float]
    distance: float | None


@dataclass(frozen=True, kw_only=True)
class BackboneAdvice:
    """Estimates of one backbone, and the strategy that follows from its profile."""

    backbone: str
    top1: float | None  # published
    logme: float
    h_score: float
    knn: float
    probe: float  # accuracy of a linear probe on what the head gets
    interval: tuple[float, float]  # of it, 95 %
    stages: tuple[StageAdvice, ...]
    distance: float | None  # the mean over stages
    strategy: str
    reason: str
    rank: float  # the mean of its ranks by each estimate
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Backbones from the best mean rank to the worst; the first few are the shortlist."""

    data: str
    images: int
    classes: tuple[str, ...]
    backbones: tuple[BackboneAdvice, ...]
    failures: Mapping[str, str]
    record: Mapping[str, Any] | None  # how advice came out in past studies

    @property
    def shortlist(self) -> tuple[str, ...]:
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
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Rank backbones for photographs, profile them by depth, and name the strategy that follows.

    Only training images are looked at, at most `MOST_IMAGES`. A `study` brings its own data, backbones and settings;
    the advice is then kept in its folder, for its report and for the track record, which is read off the studies below
    `studies`.

    Raises:
        UsageError: unknown names, all at once.
        ZooError: no backbone could be looked at.
    """
    context = Context.of(plugins, progress)
    plugins, progress = context.plugins, context.progress
    settings: dict[str, Any] = {"weights": weights, "split_seed": split_seed, "device": device}
    if study is not None:
        if data is not None:
            raise UsageError("a study has its own data", hint="leave out one of the two")
        of = Results.open(study).study
        data = of.data
        backbones = backbones or [*of.backbones, *(one for one, _ in of.also)]
        settings |= {name: of.settings[name] for name in OF_A_STUDY if name in of.settings}
    if data is None:
        raise UsageError("no photographs to look at", hint="pass `--data`, or `--study`")
    if not backbones:
        raise UsageError("no backbone to look at", hint="pass `--backbone`, several times for several")
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
    looks: list[_Look] = []
    failures: dict[str, str] = {}
    hints: list[str | None] = []
    for experiment in asked:
        try:
            looks.append(_look(experiment, plugins, progress))
        except ZooError as error:
            failures[experiment.backbone] = error.message
            hints.append(error.hint)
            progress.warn(f"{experiment.backbone}: {error.message}")
    if not looks:
        first = next(iter(failures.values()))
        raise ZooError(
            f"no backbone could be looked at; the first: {first}",
            hint=hints[0] or "`--weights FILE` takes weights that are at hand",
        )
    ranks = mean_ranks({name: [getattr(look, name) for look in looks] for name in ("top1", "logme", "h_score", "knn")})
    found = [
        BackboneAdvice(**{key: value for key, value in vars(look).items() if key not in _OF_A_LOOK}, rank=rank)
        for look, rank in zip(looks, ranks)
    ]
    advice = Advice(
        data=data,
        images=looks[0].images,
        classes=looks[0].classes,
        backbones=tuple(sorted(found, key=lambda one: one.rank)),
        failures=failures,
        record=track_record(Path(studies)),
    )
    if study is not None:
        write_json(Results.open(study).path / ADVICE_FILE, advice.to_json())
    return advice


@dataclass(frozen=True, kw_only=True)
class _Look:
    backbone: str
    top1: float | None
    logme: float
    h_score: float
    knn: float
    probe: float
    interval: tuple[float, float]
    stages: tuple[StageAdvice, ...]
    distance: float | None
    strategy: str
    reason: str
    seconds: float
    images: int
    classes: tuple[str, ...]


_OF_A_LOOK = ("images", "classes")


def _look(experiment: Experiment, plugins: Plugins, progress: Progress) -> _Look:
    """One forward pass of the training images through one backbone."""
    import torch
    from threadpoolctl import threadpool_limits

    from zoo.advice.domain_distance import NormWatch, by_stage
    from zoo.advice.probing import Watch, probe
    from zoo.advice.transferability import h_score, knn_accuracy, logme
    from zoo.feature_cache.loader import AugmentedViews
    from zoo.training.preparation import prepare
    from zoo.training.setup import resolve

    began = perf_counter()
    setup = resolve(experiment, plugins)
    job = prepare(experiment, setup, Context.of(plugins, Silent()))
    part, place = job.decoded["fit"], setup.device.place
    counts = np.bincount(part.labels, minlength=len(job.images.classes))
    if counts.min() < 2:
        raise ZooError(
            f"class `{job.images.classes[int(counts.argmin())]}` has one training image, and a probe holds some out",
            hint="add images of it, or leave the class out",
        )
    chosen = _looked_at(part)
    model = job.network.model.to(place).eval()
    if not (setup.weights or setup.weights_file):
        progress.warn(f"{setup.backbone.name} starts at random: what is told of it is of no learnt feature")
    source = AugmentedViews(part, "none", 0, setup.preprocess, place)
    progress.start(f"look through {setup.backbone.name}", len(chosen))
    head: list[npt.NDArray[np.float32]] = []
    with (
        Watch(job.network) as watch,
        NormWatch(job.network) as norms,
        _entering_head(job.network, head),
        torch.no_grad(),
    ):
        for start in range(0, len(chosen), BATCH):
            places = chosen[start : start + BATCH]
            watch.see(source.inputs(places, [0] * len(places)))
            progress.advance(len(places))
    progress.stop()
    labels = np.asarray(part.labels)[chosen]
    features = watch.features()
    last = np.concatenate(head).astype(np.float64) if head else list(features.values())[-1]
    # statistics of a network that starts at random are those of no data
    source_data = setup.weights is not None or setup.weights_file is not None
    distances = by_stage(job.network, norms.distances()) if source_data else {}
    # one thread: on matrices of this size threads that wait for one another cost more than they bring
    with threadpool_limits(1, user_api="blas"):
        right = {name: probe(values, labels) for name, values in features.items()}
        right["features"] = probe(last, labels)  # what the head gets: the last stage, and what pooling makes of it
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
    del model
    strategy, reason = follows(stages, right)
    return _Look(
        backbone=setup.backbone.qualified,
        top1=setup.weights.top1 if setup.weights is not None else None,
        **estimates,
        probe=float(right["features"].mean()),
        interval=bootstrap_interval(right["features"][None]),
        stages=stages,
        distance=float(np.mean(known)) if known else None,
        strategy=strategy,
        reason=reason,
        seconds=round(perf_counter() - began, 2),
        images=len(chosen),
        classes=job.images.classes,
    )


@contextmanager
def _entering_head(network: Network, kept: list[npt.NDArray[np.float32]]) -> Iterator[None]:
    """Keep what enters the head, where that is one vector an image."""
    from zoo.networks.head import find_head

    def keep(module: Any, inputs: Any) -> None:
        if inputs[0].ndim == 2:
            kept.append(inputs[0].float().cpu().numpy())

    try:
        handle = find_head(network).register_forward_pre_hook(keep)
    except UsageError:  # it is several layers
        yield
        return
    try:
        yield
    finally:
        handle.remove()


def _looked_at(part: DecodedImages) -> npt.NDArray[np.int64]:
    """Indices of the images that are looked at: all, or at most `MOST_IMAGES`, the same share of every class."""
    count = len(part.samples)
    if count <= MOST_IMAGES:
        return np.arange(count)
    kept = {sample.id for sample in stratified_subset(part.samples, MOST_IMAGES / count, seed=0)}
    return np.array([index for index, sample in enumerate(part.samples) if sample.id in kept])


def follows(stages: Sequence[StageAdvice], right: Mapping[str, npt.NDArray[np.bool_]]) -> tuple[str, str]:
    """The strategy that a depth profile and the distance of the data suggest, and why, in one sentence.

    `right` holds which images the probe of each stage got right, and under `features` that of what the head gets.
    """
    from zoo.advice.domain_distance import FAR, NEAR

    best = max(stages, key=lambda one: one.accuracy)
    last = stages[-1]
    final = right["features"]
    accuracy = float(final.mean())
    known = [one.distance for one in stages if one.distance is not None]
    distance = float(np.mean(known)) if known else None
    after = len(stages) - 1 - stages.index(best)
    apart = p_value(right[best.name][None], final[None]) <= LEVEL
    near = f"the photographs are like those that it learnt from ({distance:.2f})" if distance is not None else ""
    if after and apart and best.accuracy > accuracy:
        return (
            f"truncate:{after}",
            f"a probe after `{best.name}` gets {best.accuracy:.3f} right, before the head {accuracy:.3f}: what "
            "comes between loses what these photographs need",
        )
    if accuracy >= ROOM or (distance is not None and distance <= NEAR):
        why = near if distance is not None and distance <= NEAR else "there is little left to win"
        return "linear", f"a probe of its features gets {accuracy:.3f} right, and {why}"
    flat = next(
        number for number, one in enumerate(stages) if p_value(right[one.name][None], right[last.name][None]) > LEVEL
    )
    trained = len(stages) - 1 - flat
    if len(stages) == 1:
        return "linear", f"a probe of its features gets {accuracy:.3f} right, and it has no stages to be trained"
    words = f"a probe of its features gets {accuracy:.3f} right"
    if distance is not None and distance >= FAR:
        return "full", f"{words}, and the photographs are unlike those that it learnt from ({distance:.2f})"
    if trained >= 1:
        return (
            f"partial:{trained}",
            f"{words}, no more than after `{stages[flat].name}`: what comes after that adds nothing yet",
        )
    return "full", f"{words}, and every stage adds to it, so that all are worth to be trained"


def mean_ranks(estimates: Mapping[str, Sequence[float | None]]) -> list[float]:
    """Mean of the ranks by each estimate, 1 the best; an estimate that is not known of all has no vote."""
    from scipy.stats import rankdata

    votes = [
        rankdata([-value for value in values if value is not None])
        for values in estimates.values()
        if all(value is not None for value in values)
    ]
    found = np.mean(votes, axis=0)
    return [float(value) for value in found]
