"""Deployment cost: latency and size of a network, known before training because they do not depend on its weights."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.preprocess import ImageSize, height_width
from zoo.runtime import DeviceName
from zoo.storage.files import json_text
from zoo.system.other_load import BUSY, kept_busy, wait_until_quiet

if TYPE_CHECKING:
    from zoo.backbone import Network
    from zoo.latency.report import LatencyReport
    from zoo.plugin import Plugins
    from zoo.progress import Progress
    from zoo.solver import Task
    from zoo.studies.study import Study

FORMAT = "onnx"
FILE = f"network.{FORMAT}"
SECONDS = 1.0  # budget of timed calls for each network
MEASUREMENTS = 3  # at most, where other programs keep the machine busy; the quietest counts
QUIET_WAIT = 20.0  # seconds to wait before each further measurement, for the machine to become quiet


@dataclass(frozen=True, kw_only=True)
class DeploymentCost:
    """Latency, size, number of parameters and licence of a configuration's network.

    Attributes:
        shape: Digest of the network's structure; networks with the same digest cost the same.
        latency: Seconds for one image: p50 with its 95 % interval. None: not known.
        others: Processors that other programs kept busy while the latency was measured, on average. A busy machine
            makes latencies too high.
        size: Bytes of the exported file. None: not known.
        parameters: Number of parameters. None: not known.
        license: Licence of the weights that training starts from.
        failure: Why a figure is not known.
        unfit: Why the configuration cannot be trained.
    """

    shape: str = ""
    latency: tuple[float, float, float] | None = None
    others: float = 0.0
    size: int | None = None
    parameters: int | None = None
    license: str = "unknown"
    failure: str = ""
    unfit: str = ""

    def refused(self, study: Study) -> str:
        """Why a study does not train the configuration; empty where it does."""
        if self.unfit:
            return self.unfit
        if study.licenses and not any(fnmatch(self.license.lower(), one.lower()) for one in study.licenses):
            return f"licence {self.license}, not {' or '.join(study.licenses)}"
        for what, bound, value, unit in (
            ("latency", study.max_latency, self.latency[0] if self.latency else None, 1e3),
            ("size", study.max_size, self.size, 1e-6),
        ):
            if bound is None:
                continue
            name = "ms" if what == "latency" else "MB"
            if value is None:
                return f"its {what} is not known: {self.failure}"
            if value > bound:
                while_busy = (
                    f", measured while {kept_busy(self.others, here=False)}" if what == "latency" and self.busy else ""
                )
                return f"{what} {value * unit:.1f} {name}, over {bound * unit:g} {name}{while_busy}"
        return ""

    @property
    def busy(self) -> bool:
        """Whether the machine was too busy with other programs for the latency to be trusted."""
        return self.others > BUSY

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "latency": list(self.latency) if self.latency else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DeploymentCost:
        return cls(**{**data, "latency": tuple(data["latency"]) if data["latency"] else None})


def license_of(experiment: Experiment, plugins: Plugins) -> str:
    """The licence of the weights that an experiment starts from, or of the network's code where weights are random."""
    from zoo.config.references import look_up

    names = look_up(experiment, plugins)
    return names.weights.license if names.weights is not None else names.backbone.value.license


def export_untrained(
    experiment: Experiment, classes: tuple[str, ...], images: int, folder: Path, plugins: Plugins
) -> dict[str, Any]:
    """Export an experiment's network with random weights into `folder / SHAPE`, unless that folder is there.

    Args:
        experiment: gives backbone, strategy and settings.
        classes: class names.
        images: number of training images. A head that stores training images, as `knn`'s does, stores as many random
            ones.
        folder: where networks are written, one folder for each shape.
        plugins: loaded plugins.

    Returns:
        The network's `shape`, `parameters` and `size`, as of a `DeploymentCost`.

    Raises:
        UsageError: the strategy or a setting does not fit the network.
        ZooError: it cannot be exported.
    """
    from zoo.exporter import ExportSpec
    from zoo.networks.building import count_parameters
    from zoo.target import load_target
    from zoo.training.setup import build, plan_phases, resolve

    setup = resolve(experiment, plugins)
    network = build(setup, experiment, len(classes), pretrained=False)
    planned = plan_phases(setup, network, experiment)
    network = setup.plan.merge(network)
    for phase in planned.phases:
        if phase.solver is not None and not phase.trains:
            load_target(phase.solver)(_random_task(network, setup.preprocess.crop, len(classes), images))
    model = network.model.eval()
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    words = json_text([setup.backbone.qualified, setup.preprocess.to_json(), shapes], ascii_only=True)
    shape = hashlib.sha256(words.encode()).hexdigest()[:16]
    written = folder / shape  # a folder, because a large network has its weights in a second file
    with FileLock(folder / f".{shape}.lock"):  # another worker may export a network of the same structure
        if not written.is_dir():
            partial = folder / f".{shape}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            spec = ExportSpec(
                model=model,
                preprocess=setup.preprocess,
                classes=classes,
                metadata={"untrained": True},
                file=partial / FILE,
            )
            load_target(plugins.exporters.find(FORMAT).value.write)(spec)
            partial.replace(written)
    size = sum(file.stat().st_size for file in written.iterdir())
    return {"shape": shape, "parameters": count_parameters(model), "size": size}


def _random_task(network: Network, size: ImageSize, classes: int, images: int) -> Task:
    """A solver's task with random features of `images` images, as wide as those that enter the head."""
    import torch

    from zoo.networks.head import find_head
    from zoo.solver import Task
    from zoo.training.features import features

    width = features(network, [torch.zeros(1, 3, *height_width(size))]).shape[1]
    drawn = np.random.default_rng(0).standard_normal((images, width), np.float32)
    return Task(head=find_head(network), features=drawn, labels=np.arange(images) % classes, classes=classes, seed=0)


@dataclass(frozen=True)
class NetworkLatencies:
    """Latencies of networks, measured together.

    Attributes:
        p50: Seconds for one image, with the 95 % interval, by shape.
        others: Processors that other programs kept busy meanwhile, on average.
    """

    p50: dict[str, tuple[float, float, float]]
    others: float = 0.0


def time_networks(folder: Path, device: str, plugins: Plugins, progress: Progress) -> NetworkLatencies:
    """Measure the latency of the networks that `export_untrained` wrote, interleaved, each in a process of its own.

    Where other programs keep the machine busy, `progress` is told and they are measured again, `MEASUREMENTS` times in
    all at most; the measurement with the least other load counts.
    """
    from zoo.latency.measurement import bench

    files = sorted(folder.glob(f"[!.]*/{FILE}"))
    if not files:
        return NetworkLatencies({})
    exporter = plugins.exporters.find(FORMAT).value
    kind = DeviceName.parse(device).kind
    if kind not in ("auto", *exporter.devices):
        progress.note(f"latencies are measured on the CPU: {FORMAT} files do not run on `{device}`")
        device, kind = "cpu", "cpu"
    runtimes = [exporter.runtimes[kind]] if kind in exporter.runtimes else None
    reports: list[LatencyReport] = []
    while True:
        report = bench(
            files,
            runtimes=runtimes,
            device=device,
            batch_sizes=(1,),
            seconds=SECONDS,
            noise_floor=False,  # only the median is read
            plugins=plugins,
        )
        reports.append(report)
        if report.others <= BUSY:
            break
        busy = f"{kept_busy(report.others)} while latencies were measured"
        if len(reports) == MEASUREMENTS:
            progress.warn(f"{busy}; of {MEASUREMENTS} measurements the one on the least busy machine is kept")
            break
        progress.warn(f"{busy}; they are measured again")
        wait_until_quiet(QUIET_WAIT)
    quietest = min(reports, key=lambda one: one.others)
    found = {}
    for outcome in quietest.measured:
        p50 = outcome.measurements[0].p50
        found[Path(outcome.target).parent.name] = (p50.value, p50.low, p50.high)
    return NetworkLatencies(found, round(quietest.others, 2))


def with_latency(one: DeploymentCost, measured: NetworkLatencies) -> DeploymentCost:
    """The deployment cost with the latency that was measured for its shape."""
    found = measured.p50.get(one.shape)
    failure = one.failure or ("" if found else "it could not be timed")
    return replace(one, latency=found, others=measured.others if found else 0.0, failure=failure)


def told_unfit(reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason why configurations cannot be trained; `reasons` are by configuration.

    Reasons that differ in numbers alone, as those of a sweep `truncate:1..30` do, are one.
    """
    kinds: dict[str, list[str]] = {}
    for configuration, reason in reasons.items():
        kinds.setdefault(re.sub(r"[0-9]+", "#", f"{configuration} {reason}"), []).append(configuration)
    lines = []
    for first, *others in kinds.values():
        also = f" and {counted(len(others), 'other')}, to {others[-1].partition(' ')[2]}," if others else ""
        lines.append(f"{first}{also} will not be trained: {reasons[first]}")
    return lines
