"""Preparation: everything that a run needs before its first step, decided, built and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.config.references import teachers_of
from zoo.data.decode_plan import decode_requests, store_keys
from zoo.data.decoding import (
    CHECKED,
    BadFile,
    DecodedImages,
    DecodeRequest,
    decode_parts,
    default_workers,
    doubts_text,
    streamed_text,
)
from zoo.data.groups import SharedGroup, shared_groups, told_groups
from zoo.data.image import all_grey, has_deep_grey
from zoo.data.leakage import Leak, leaks_of, told
from zoo.data.opening import note_images
from zoo.data.prefetch import Prefetch
from zoo.data.roles import Roles
from zoo.data.selection import Selection
from zoo.dataset import Images
from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.feature_cache.engine_choice import EngineChoice, RunEngine, Work
from zoo.feature_cache.loader import default_views
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.row_pool import RowPool
from zoo.networks.freezing import digest_of_state
from zoo.progress import Progress
from zoo.storage.tensor_store import digest_of_texts
from zoo.training.acceptance import accept, check_leaks
from zoo.training.distillation import Teacher, open_teachers
from zoo.training.final_run import Earlier
from zoo.training.inheritance import Inheritance, images_of
from zoo.training.kept_features import KeptFeatures, kept_features
from zoo.training.optimizer import changed_by
from zoo.training.seen_images import (
    SeenImages,
    check_seen,
    has_same_training_images,
    images_seen,
    origins_of,
    seen_before,
)
from zoo.training.setup import PlannedPhases, Setup, build, build_from, plan_phases

GREY_IMAGES = 1000  # training images in which colour is looked for; most data sets show it in the first
LOOKED_AT = 100  # training images in which grey levels of more than 8 bits are looked for, where `--levels` is given


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run that is ready to be carried out."""

    experiment: Experiment
    setup: Setup
    selection: Selection
    roles: Roles
    network: Network
    phases: PlannedPhases
    decoded: dict[str, DecodedImages]  # by role: `fit`, `choose`, `reported`
    bad: tuple[BadFile, ...]
    start_digest: str  # SHA-256 over the network as it starts
    context: Context
    leaks: tuple[Leak, ...] = ()  # images in two roles, or with two labels
    shared_groups: tuple[SharedGroup, ...] = ()  # groups in two splits
    earlier: Earlier | None = None  # of a final run
    pool: RowPool | None = None  # outputs of frozen layers that the folds of a run share
    teachers: Mapping[str, Teacher] = field(default_factory=dict)  # by the text of `distill=`
    engine: RunEngine | None = None  # computes frozen layers; None: torch
    inheritance: Inheritance | None = None  # of a run that goes on from another
    seen: tuple[SeenImages, ...] = ()  # images that the runs which it comes from were fitted on
    kept: KeptFeatures | None = None  # features that are kept by shard

    @property
    def images(self) -> Images:
        """The data without what is left out."""
        return self.selection.images


def prefix_work(
    network: Network, planned: PlannedPhases, experiment: Experiment, decoded: Mapping[str, DecodedImages]
) -> Work:
    """What the frozen prefixes of a run compute: views of the training images, and the images that are evaluated."""
    first = set(network.anatomy.stages[0].parameters)
    views, prefixes = 0, set()
    for phase, epochs in zip(planned.phases, planned.epochs):
        trainable = changed_by(network, phase)
        if first and not first & set(trainable) and not phase.needs_images:
            views += 1 if phase.solver else min(experiment.views or default_views(epochs), epochs)
            prefixes.add(frozenset(trainable))
    evaluated = sum(len(part.labels) for role, part in decoded.items() if role != "fit") if prefixes else 0
    return Work(
        images=views * len(decoded["fit"].labels) + evaluated,
        networks=max(len(prefixes), 1),
        digest=digest_of_texts(f"{role} {part.digest}" for role, part in sorted(decoded.items())),
    )


def feature_cache(job: Job) -> FeatureCache:
    """The feature cache of a run."""
    return FeatureCache(
        asked=job.experiment.cache,
        batch_size=job.experiment.batch_size,
        preprocess=job.setup.preprocess,
        device=job.setup.device,
        progress=job.context.progress,
        backbone=job.setup.backbone.qualified,
        store=job.context.store,
        pool=job.pool,
        engine=job.engine,
        earlier=() if job.inheritance is None else images_of(job.inheritance.parent),
        begin=job.context.ranks.rank / job.context.ranks.size,
        kept=() if job.kept is None else job.kept.rows_of(job.decoded),
    )


def prepare(
    experiment: Experiment,
    setup: Setup,
    context: Context,
    prefetch: Prefetch | None = None,
    *,
    pool: RowPool | None = None,
    earlier: Earlier | None = None,
    of_folds: bool = False,
    engine: EngineChoice | None = None,
    times: int = 1,
) -> Job:
    """Open the data, build the network, plan its phases and decode the images.

    Args:
        experiment: All settings.
        setup: Its names, looked up.
        context: Plugins, progress, store and clock.
        prefetch: A process that has begun to decode the images into the store.
        pool: What the folds of a run share.
        earlier: What a final run takes from the run that it is of.
        of_folds: Whether it is the run of a fold; the run of all folds has looked for leaks, and told what it found.
        engine: The choice that a resumed run began with. None: it has made none.
        times: Factor of `--accumulate`, where optimiser steps are taken: the ranks of a new run.

    Raises:
        UsageError: a name, a strategy or a setting is wrong.
        ZooError: data or weights are not usable.
    """
    progress, clock = context.progress, context.clock
    origins = origins_of(experiment)
    accepted = accept(
        experiment, context.plugins, final=earlier is not None, look=not of_folds, seen=seen_before(origins)
    )
    images, roles = accepted.selection.images, accepted.roles
    torch.manual_seed(experiment.seed)
    inheritance = None
    if setup.parent is None:
        network = build(setup, experiment, len(images.classes))
    else:
        network, inheritance = build_from(setup, experiment, images.classes)
    phases = plan_phases(setup, network, experiment)
    if times > 1 and any(phase.solver is None for phase in phases.phases):
        experiment = replace(experiment, accumulate=experiment.accumulate * times)
        phases = plan_phases(setup, network, experiment)
    if inheritance is not None:
        phases = replace(phases, notes=(*inheritance.notes(phases.phases), *phases.notes))
    if earlier is not None:
        trained = len(earlier.epochs)
        phases = replace(phases, phases=phases.phases[:trained], epochs=earlier.epochs)
    teachers = open_teachers(phases.phases, images.classes)
    clock.lap("build")
    progress.note(f"device {setup.device.place} {setup.device.precision} ({setup.device.reason})")
    if not of_folds:
        note_images(images, progress)
    for text in (*roles.notes, *phases.notes):
        progress.note(text)
    if setup.plan.pretrained and setup.weights is None and setup.weights_file is None and setup.parent is None:
        progress.warn(f"`--weights none`: `{setup.plan}` trains on a network that starts at random")
    try:
        requests = decode_requests(images, roles, setup.preprocess)
        kept = kept_features(network, phases, setup, experiment, requests, context, engine)
        decoded, bad = _decode(images, requests, setup, experiment, context, prefetch, kept)
    finally:
        progress.stop()  # also after an error: a bar would go on telling how long it takes
    if experiment.levels is not None:
        looked_at = decoded["fit"].samples[:LOOKED_AT]
        if not has_deep_grey(sample.source for sample in looked_at):
            count = counted(len(looked_at), "image")
            progress.note(f"`--levels` changes images of more than 8 bits alone, and of {count} none is one")
    if all_grey(decoded["fit"].pixels[:GREY_IMAGES], setup.preprocess.fill):
        count = counted(min(len(decoded["fit"].samples), GREY_IMAGES), "training image")
        progress.note(
            f"all of {count} looked at are grey; the network gets each as three equal channels, red, green and blue"
        )
    if kept is None and (streamed := streamed_text(decoded.values())) is not None:
        progress.note(streamed)
    if not set(teachers) <= set(teachers_of(experiment.strategy)):  # a plugin's strategy names some
        origins = origins_of(experiment, teachers)
    seen = images_seen(origins, {role: part.contents for role, part in decoded.items()})
    leaks = [*leaks_of(decoded, roles.reported or "val"), *accepted.selection.near]
    decoded.pop(CHECKED, None)
    work = prefix_work(network, phases, experiment, decoded)
    if experiment.engine not in ("auto", "torch") and not work.images:
        progress.note(
            f"`--engine {experiment.engine}` has no effect: no layer stays frozen, so torch computes everything"
        )
    clock.lap("scan")
    job = Job(
        experiment=experiment,
        setup=setup,
        selection=accepted.selection,
        roles=roles,
        network=network,
        phases=phases,
        decoded=decoded,
        bad=tuple(bad),
        leaks=tuple(leaks),
        shared_groups=tuple(shared_groups(images.splits)),
        start_digest=digest_of_state(network.model),
        context=context,
        pool=pool,
        earlier=earlier,
        inheritance=inheritance,
        seen=seen,
        teachers=teachers,
        kept=kept,
        engine=RunEngine(
            experiment.engine,
            plugins=context.plugins,
            progress=progress,
            store=context.store,
            work=work,
            began_with=engine or (None if kept is None else kept.engine),
            shared=pool.engines if pool is not None else None,
        ),
    )
    if setup.parent is not None and has_same_training_images(setup.parent, decoded["fit"].contents):
        progress.note(
            f"the training images are those of run `{setup.parent.run.path}`, so it is trained further on the same"
        )
    check_seen(seen, images.name, experiment, progress)
    if of_folds:
        warn_of_images(replace(job, leaks=(), shared_groups=()), progress)
        return job
    if leaks and experiment.on_leak == "fail":
        warn_of_images(replace(job, leaks=(), shared_groups=()), progress)
    check_leaks(images.name, leaks, job.shared_groups, experiment)
    warn_of_images(job, progress)
    return job


def warn_of_images(job: Job, progress: Progress) -> None:
    """Say which files are left out, which are used though something is wrong with them, and which are in two places."""
    if job.bad:
        bad = sorted(job.bad, key=lambda file: file.id)  # whatever their roles are, so that folds say the same
        shown = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:10])
        more = f"\n  and {len(job.bad) - 10} more" if len(job.bad) > 10 else ""
        what = counted(
            len(job.bad),
            "file is left out because it cannot be read as an image",
            "files are left out because they cannot be read as images",
        )
        progress.warn(f"{what}:{shown}{more}")
    doubtful = sorted((file for part in job.decoded.values() for file in part.doubtful), key=lambda file: file.id)
    if doubtful:
        progress.warn(doubts_text(doubtful))
    if job.leaks:
        progress.warn(told(job.leaks))
    if job.shared_groups:
        progress.warn(told_groups(job.shared_groups))


def _decode(
    images: Images,
    parts: Mapping[str, DecodeRequest],
    setup: Setup,
    experiment: Experiment,
    context: Context,
    prefetch: Prefetch | None,
    kept: KeptFeatures | None,
) -> tuple[dict[str, DecodedImages], list[BadFile]]:
    """Decode the images of every role, after the prefetch process has put what it decoded into the store."""
    progress = context.progress
    count = sum(len(part.samples) for part in parts.values())
    if prefetch is not None and kept is not None:
        prefetch.stop()
    elif prefetch is not None:
        progress.start("scan", count)
        if not prefetch.wait(progress.advance):
            progress.note(
                "the process that decodes ahead is too slow or hangs; it was stopped, and images are decoded here"
            )
    progress.start("scan", count)
    decoded, bad = decode_parts(
        images,
        parts,
        on_bad_image=experiment.on_bad_image,
        workers=experiment.workers or default_workers(),
        advance=progress.advance,
        store=context.store if experiment.cache != "off" else None,
        keys=store_keys(parts, setup.preprocess),
        known=None if kept is None else kept.known,
    )
    progress.stop()
    return decoded, bad
