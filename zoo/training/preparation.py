"""Job: everything that a run needs, decided, built and decoded, before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch

from zoo.backbone import Network
from zoo.data.decoding import BadFile, Scanned, default_workers, scan
from zoo.data.opening import open_images
from zoo.data.prefetch import Ahead, keys_of, parts_of
from zoo.data.roles import Roles, assign_roles
from zoo.dataset import Images
from zoo.experiment import Experiment
from zoo.networks.freezing import digest_of_state
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.storage.tensor_store import Store
from zoo.training.setup import Course, Setup, build, plan_course


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is ready to be carried out."""

    experiment: Experiment
    setup: Setup
    images: Images
    roles: Roles
    network: Network
    course: Course
    scanned: dict[str, Scanned]
    bad: tuple[BadFile, ...]
    start_digest: str  # SHA-256 over the network as it starts
    plugins: Plugins
    progress: Progress
    store: Store


class Clock:
    """Seconds of wall time by part of the run."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self.laps: dict[str, float] = {}
        self.before = 0.0  # of the sessions before this one

    def lap(self, name: str) -> None:
        moment = perf_counter()
        self.laps[name] = round(moment - self._last, 3)
        self._last = moment

    def total(self) -> float:
        """Seconds since the run began, over all its sessions."""
        return round(self.before + perf_counter() - self._started, 3)


def prepare(
    experiment: Experiment,
    setup: Setup,
    plugins: Plugins,
    progress: Progress,
    clock: Clock,
    ahead: Ahead | None = None,
) -> Job:
    """Open the data, build the network, plan its phases, decode the photographs, unless that is done `ahead`.

    Raises:
        UsageError, ZooError: whatever is wrong with any of them.
    """
    images = open_images(experiment.data, experiment.split_seed, plugins)
    roles = assign_roles(images, experiment)
    torch.manual_seed(experiment.seed)
    network = build(setup, experiment, len(images.classes))
    course = plan_course(setup, network, experiment)
    clock.lap("build")
    progress.note(f"device {setup.device.place} {setup.device.precision} ({setup.device.reason})")
    for text in (*images.notes, *roles.notes, *course.notes):
        progress.note(text)
    if setup.plan.pretrained and setup.weights is None and setup.weights_file is None:
        progress.warn(f"`--weights none`: `{setup.plan}` trains on a network that starts at random")
    store = Store()
    scanned, bad = _scan(images, roles, setup, experiment, progress, store, ahead)
    clock.lap("scan")
    return Job(
        experiment=experiment,
        setup=setup,
        images=images,
        roles=roles,
        network=network,
        course=course,
        scanned=scanned,
        bad=tuple(bad),
        start_digest=digest_of_state(network.model),
        plugins=plugins,
        progress=progress,
        store=store,
    )


def _scan(
    images: Images,
    roles: Roles,
    setup: Setup,
    experiment: Experiment,
    progress: Progress,
    store: Store,
    ahead: Ahead | None,
) -> tuple[dict[str, Scanned], list[BadFile]]:
    """What a run sees of its photographs; after what decodes ahead is done, and has left them in the store."""
    parts = parts_of(images, roles, setup.preprocess)
    count = sum(len(part.samples) for part in parts.values())
    if ahead is not None:
        progress.start("scan", count)
        ahead.wait(progress.advance)
    progress.start("scan", count)
    scanned, bad = scan(
        images,
        parts,
        on_bad_image=experiment.on_bad_image,
        workers=experiment.workers or default_workers(),
        advance=progress.advance,
        store=store if experiment.cache != "off" else None,
        keys=keys_of(parts, setup.preprocess),
    )
    progress.stop()
    if bad:
        shown = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:10])
        more = f"\n  and {len(bad) - 10} more, all in run.json" if len(bad) > 10 else ""
        progress.warn(f"{len(bad)} files are left out, they are no usable photographs:{shown}{more}")
    return scanned, bad
