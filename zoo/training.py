"""Training: from an experiment to a run's folder that holds its weights, its history and its figures."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from zoo.backbone import Backbone, Network, Weights, build_network
from zoo.catalogue import Entry
from zoo.dataset import Images, Role, Sample, absolute, open_images
from zoo.device import Device, choose_device
from zoo.errors import UsageError, ZooError
from zoo.evaluation import Evaluation, compute_metrics
from zoo.experiment import DEFAULT_EPOCHS, Experiment
from zoo.files import SCHEMA, append_json, write_bytes, write_json
from zoo.grammar import Plan, parse, share_epochs
from zoo.machine import machine, versions
from zoo.network import count_parameters
from zoo.photograph import canvas, pixels
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.preprocess import Preprocess
from zoo.progress import Progress, Silent
from zoo.recipe import Recipe
from zoo.run import HISTORY_FILE, SPLITS_FILE, WEIGHTS_FILE, Run, check_folder, default_folder, make_folder, now
from zoo.scan import BadFile, Scanned, default_workers, scan
from zoo.split import carve
from zoo.strategy import Phase

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """An experiment whose names are resolved."""

    backbone: Entry[Backbone]
    plan: Plan
    weights: Weights | None
    weights_file: Path | None
    preprocess: Preprocess
    device: Device


def resolve(experiment: Experiment, plugins: Plugins) -> Setup:
    """Look up everything that an experiment names, before any work.

    Raises:
        UsageError: an unknown name, or settings that exclude each other.
        ZooError: the device is not there.
    """
    backbone = plugins.backbones.find(experiment.backbone)
    plan = parse(experiment.strategy, plugins.strategies)
    weights: Weights | None = None
    file: Path | None = None
    asked = experiment.weights
    if _is_file(asked):
        file = Path(asked).expanduser()
        if file.is_dir():
            raise UsageError(f"`{asked}` is a folder, not a file of weights", hint="pass the file in it")
        if not file.is_file():
            raise UsageError(
                f"there is no file of weights `{asked}`", hint="`--weights` takes default, none, a tag or a file"
            )
    elif asked != "default" or plan.pretrained:
        weights = backbone.value.find_weights(asked)
    if not plan.pretrained and (weights is not None or file is not None):
        raise UsageError(
            f"strategy `{plan}` starts from random weights, `--weights {asked}` would be ignored",
            hint="leave `--weights` out, or use `full`",
        )
    known = weights or (backbone.value.weights[0] if backbone.value.weights else None)
    base = known.preprocess if known is not None else backbone.value.preprocess
    return Setup(
        backbone=backbone,
        plan=plan,
        weights=weights,
        weights_file=file,
        preprocess=base.at(experiment.image_size),
        device=choose_device(experiment.device, experiment.precision),
    )


def _is_file(text: str) -> bool:
    return Path(text).suffix.lower() in WEIGHTS_SUFFIXES or "/" in text or "\\" in text


def train(
    experiment: Experiment,
    *,
    out: Path | str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train as the experiment says, score the reported split, and leave a run's folder.

    Raises:
        UsageError: a name, a strategy or a setting is wrong, or `out` exists without `force`.
        ZooError: data, weights or device are not as needed, or training diverged.
    """
    plugins = plugins or Plugins()
    progress = progress or Silent()
    clock = Clock()
    experiment = replace(experiment, data=absolute(experiment.data))
    setup = resolve(experiment, plugins)
    folder = Path(out).expanduser() if out is not None else default_folder(setup.backbone.name, str(setup.plan))
    check_folder(folder, force)
    images = open_images(experiment.data, experiment.split_seed, plugins)
    roles = assign_roles(images, experiment)

    torch.manual_seed(experiment.seed)
    network = build_network(
        setup.backbone.value,
        classes=len(images.classes),
        weights=setup.weights,
        weights_file=setup.weights_file,
        dropout=experiment.dropout,
        drop_path=experiment.drop_path,
        image_size=experiment.image_size,
    )
    phases = tuple(_with_norm(phase, experiment) for phase in setup.plan.phases(network.anatomy))
    epochs = share_epochs(phases, experiment.epochs, DEFAULT_EPOCHS, str(setup.plan))
    clock.lap("build")
    progress.note(f"device {setup.device.place} {setup.device.precision} ({setup.device.reason})")
    for text in (*images.notes, *roles.notes):
        progress.note(text)
    if setup.plan.pretrained and setup.weights is None and setup.weights_file is None:
        progress.warn(f"`--weights none`: `{setup.plan}` trains on a network that starts at random")

    scanned, bad = _scan(images, roles, setup.preprocess, experiment, progress)
    clock.lap("scan")

    # the record first: with `--force`, the weights to start from may lie in the very run that is replaced
    record = _record(experiment, setup, images, roles, network, phases, epochs, scanned, bad)
    make_folder(folder, force)
    run = Run(folder, {}).update(**record)
    ids = {name: [sample.id for sample in part.samples] for name, part in scanned.items()}
    write_json(folder / SPLITS_FILE, {"schema": SCHEMA, "roles": ids})
    try:
        recipe = Recipe(
            network,
            phases,
            epochs,
            experiment=experiment,
            preprocess=setup.preprocess,
            device=setup.device,
            train=scanned["fit"],
            choose=scanned.get("choose"),
            progress=progress,
        )
        seconds: dict[str, float] = {}
        for line in recipe.fit():
            append_json(folder / HISTORY_FILE, line)
            for name, value in line["seconds"].items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 3)
        clock.lap("train")
        _check_finite(network, experiment)
        digest = _save_weights(network, folder)
        clock.lap("save")
        predictions = _predict(recipe, scanned, images, roles, progress)
        if not np.isfinite(predictions.logits).all():
            raise _diverged("a logit", experiment)
        clock.lap("report")
        evaluation = Evaluation(
            model=str(folder),
            data=images.name,
            device=str(setup.device.place),
            predictions=predictions,
            metrics=compute_metrics(predictions, plugins),
            split_seed=experiment.split_seed,
        )
        run.note_look(evaluation)
        run = run.update(
            status="finished",
            finished=now(),
            metrics=evaluation.metrics,
            accuracy_interval_95=list(evaluation.interval()),
            weights_sha256=digest,
            seconds={**clock.laps, "total": clock.total(), "of_train": seconds},
        )
    except KeyboardInterrupt:
        run.update(status="interrupted", finished=now())
        _save_weights(network, folder)
        raise
    except BaseException as error:
        run.update(status="failed", finished=now(), failure=str(error).splitlines()[0] if str(error) else repr(error))
        raise
    finally:
        progress.stop()
    return run


class Clock:
    """Seconds of wall time by part of the run."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        moment = perf_counter()
        self.laps[name] = round(moment - self._last, 3)
        self._last = moment

    def total(self) -> float:
        return round(perf_counter() - self._started, 3)


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which samples are fitted, which may be chosen on, and which are reported."""

    fit: tuple[Sample, ...]
    choose: tuple[Sample, ...]  # empty: nothing is chosen, and nothing is watched
    reported: Role
    notes: tuple[str, ...]


def assign_roles(images: Images, experiment: Experiment) -> Roles:
    """Honest roles: `val` chooses only where `test` remains; else what must be chosen is carved from train."""
    fit, choose = images.splits["train"], tuple[Sample, ...]()
    notes: tuple[str, ...] = ()
    if images.may_choose:
        choose = images.splits["val"]
    elif experiment.chooses:
        fit, choose = carve(fit, experiment.split_seed)
        notes = (
            f"`{images.reported}` is what is reported, so {len(choose)} of {len(fit) + len(choose)} training images "
            "are set aside to choose on",
        )
    return Roles(fit=fit, choose=choose, reported=images.reported, notes=notes)


def _with_norm(phase: Phase, experiment: Experiment) -> Phase:
    return phase if experiment.norm is None else replace(phase, norm=experiment.norm)


def _scan(
    images: Images, roles: Roles, preprocess: Preprocess, experiment: Experiment, progress: Progress
) -> tuple[dict[str, Scanned], list[BadFile]]:
    """Decode what is fitted as canvases, what is chosen on and reported as the network sees it."""
    as_canvas = lambda photograph: canvas(photograph, preprocess)
    as_pixels = lambda photograph: pixels(photograph, preprocess)
    parts: dict[str, tuple[tuple[Sample, ...], int, Callable[[Any], Any]]] = {
        "fit": (roles.fit, preprocess.canvas, as_canvas)
    }
    if roles.choose:
        parts["choose"] = (roles.choose, preprocess.crop, as_pixels)
    if not images.may_choose:
        parts["reported"] = (images.splits[roles.reported], preprocess.crop, as_pixels)
    progress.start("scan", sum(len(samples) for samples, _, _ in parts.values()))
    scanned, bad = scan(
        images,
        parts,
        on_bad_image=experiment.on_bad_image,
        workers=experiment.workers or default_workers(),
        advance=progress.advance,
    )
    progress.stop()
    if bad:
        shown = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:10])
        more = f"\n  and {len(bad) - 10} more, all in run.json" if len(bad) > 10 else ""
        progress.warn(f"{len(bad)} files are left out, they are no usable photographs:{shown}{more}")
    return scanned, bad


def _record(
    experiment: Experiment,
    setup: Setup,
    images: Images,
    roles: Roles,
    network: Network,
    phases: tuple[Phase, ...],
    epochs: tuple[int, ...],
    scanned: dict[str, Scanned],
    bad: list[BadFile],
) -> dict[str, Any]:
    sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    weights = setup.weights
    return {
        "schema": SCHEMA,
        "status": "running",
        "created": now(),
        "command": ["zoo", *sys.argv[1:]] if Path(sys.argv[0]).stem == "zoo" else None,
        "experiment": experiment.to_json(),
        "backbone": setup.backbone.qualified,
        "strategy": str(setup.plan),
        "weights": {
            "tag": weights.tag if weights else "file" if setup.weights_file else "none",
            "source": weights.source if weights else str(setup.weights_file or ""),
            "sha256": hashlib.sha256(setup.weights_file.read_bytes()).hexdigest() if setup.weights_file else None,
            "license": weights.license if weights else "unknown" if setup.weights_file else "none",
        },
        "license": setup.backbone.value.license,
        "classes": list(images.classes),
        "preprocess": setup.preprocess.to_json(),
        "stages": [*network.anatomy.names, network.anatomy.head.name],
        "phases": [
            {
                "name": phase.name,
                "epochs": count,
                "norm": phase.norm,
                "trains": list(phase.trains),
                "lr": [experiment.lr * phase.lr * group.lr for group in phase.groups],
                "trainable_parameters": sum(sizes[name] for name in network.anatomy.parameters_of(phase.trains)),
            }
            for phase, count in zip(phases, epochs)
        ],
        "parameters": count_parameters(network.model),
        "data_name": images.name,
        "data": {name: {"images": len(part.samples), "sha256": part.digest} for name, part in scanned.items()},
        "reported_split": roles.reported,
        "chosen_on": ("val" if images.may_choose else "carved from train") if roles.choose else None,
        "notes": [*images.notes, *roles.notes],
        "bad_images": [{"path": file.id, "reason": file.reason} for file in bad],
        "device": {
            "name": str(setup.device.place),
            "precision": setup.device.precision,
            "reason": setup.device.reason,
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "machine": machine(),
    }


def _check_finite(network: Network, experiment: Experiment) -> None:
    """The last step may diverge after its loss was seen to be finite."""
    for name, value in network.model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _diverged(f"`{name}`", experiment)


def _diverged(what: str, experiment: Experiment) -> ZooError:
    return ZooError(
        f"{what} is not finite after the last step: training diverged",
        hint=f"pass a lower `--lr` than {experiment.lr:g}, or clip with `--clip 1.0`",
    )


def _save_weights(network: Network, folder: Path) -> str:
    state = {name: value.detach().cpu().contiguous() for name, value in network.model.state_dict().items()}
    data = save_tensors(state)
    write_bytes(folder / WEIGHTS_FILE, data)
    return hashlib.sha256(data).hexdigest()


def _predict(
    recipe: Recipe, scanned: dict[str, Scanned], images: Images, roles: Roles, progress: Progress
) -> Predictions:
    part = scanned.get("reported") or scanned["choose"]
    recipe.model.eval()
    progress.start(f"score {roles.reported}", len(part.samples))
    rows = []
    for start in range(0, len(part.samples), recipe.experiment.batch_size):
        rows.append(recipe.predictor.logits_of_pixels(part.pixels[start : start + recipe.experiment.batch_size]))
        progress.advance(len(rows[-1]))
    progress.stop()
    return Predictions(
        split=roles.reported,
        classes=images.classes,
        ids=tuple(sample.id for sample in part.samples),
        labels=part.labels,
        logits=np.concatenate(rows),
    )
