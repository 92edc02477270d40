"""Ensemble: one network whose probabilities are the mean of those of several runs, whatever their backbones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.combining.making import Combined, choose_folder, class_indices, log_loss, logits_of, new_temperature, write_run
from zoo.combining.parts import crops, find_held_out, open_parts
from zoo.config.context import Context
from zoo.data.class_names import keys
from zoo.errors import UsageError, counted
from zoo.networks.building import count_parameters
from zoo.networks.trained import Architecture, mean_of
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.run import Run
from zoo.runs.source_run import SourceRun
from zoo.system.device import choose_device


def ensemble(
    runs: Sequence[Run | Path | str],
    *,
    out: Path | str | None = None,
    force: bool = False,
    data: str | None = None,
    device: str = "auto",
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Combined:
    """Combine several runs into one network, whose probabilities are the mean of theirs.

    Args:
        runs: The runs, or their folders; of the same classes and data, and with images cropped alike.
        out: The folder of the new run. None: a new one below `runs/`.
        force: Replace the run in `out`.
        data: The data, if they were moved. None: the path that the first run records.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: the runs cannot be combined: fewer than two, the same twice, other classes, images cropped in
            another way, or other held-out images; or `out` exists without `force`.
        ZooError: a run is not finished or damaged, or images are missing or have changed.
    """
    begun = time.perf_counter()
    context = Context.of(plugins, progress)
    place = choose_device(device, "fp32").place
    parts = open_parts(runs, "ensemble")
    first = parts[0].run
    names = [_classes_as_in(first, part.run) for part in parts]
    for part in parts[1:]:
        _check_crops(first, part.run)
    folder = choose_folder(out, force, parts, ("ensemble", f"of-{len(parts)}"))
    networks = [part.run.load_network(context.plugins) for part in parts]
    held = find_held_out(parts, data, context.plugins, context.progress)
    architectures = [Architecture.of(part.run.record) for part in parts]
    network = mean_of(architectures, networks, names, first.classes)
    labels = class_indices(held.samples, first.classes)
    shown = crops(held.samples, first.preprocess)
    context.progress.start("score members", len(parts) + 1, "networks")
    figures = []
    for part, one, theirs in zip(parts, networks, names):
        logits = logits_of(one, shown, part, place)[:, [theirs.index(name) for name in first.classes]]
        figures.append({"loss": log_loss(logits, labels), "accuracy": float((logits.argmax(1) == labels).mean())})
        context.progress.advance(1)
    logits = logits_of(network, shown, parts[0], place)
    context.progress.stop()
    temperature = new_temperature(logits, labels, held, 1.0)
    state: Any = network.model
    with torch.no_grad():
        state.temperature.fill_(float(temperature["value"]))
    members = [
        {
            **part.to_json(),
            **score,
            "backbone": part.run.record["backbone"],
            "strategy": part.run.record["strategy"],
            "experiment": part.run.experiment.to_json(),
            "classes": theirs,
            "preprocess": part.run.preprocess.to_json(),
        }
        for part, score, theirs in zip(parts, figures, names)
    ]
    licences = dict.fromkeys(str(part.run.record.get("license") or "unknown") for part in parts)
    changes = {
        "backbone": " + ".join(dict.fromkeys(str(part.run.record["backbone"]) for part in parts)),
        "strategy": " | ".join(dict.fromkeys(str(part.run.record["strategy"]) for part in parts)),
        "license": " and ".join(licences),
        "weights": _weights(parts),
        "stages": [*network.anatomy.names, network.anatomy.head.name],
        "parameters": count_parameters(network.model),
        "temperature": temperature,
        "ensemble": {"members": members, "chosen_on": held.chosen_on, "images": len(held.samples)},
        "notes": [f"an ensemble of {counted(len(parts), 'run')}: the mean of their probabilities"],
    }
    run = write_run(
        folder,
        network,
        parts[0],
        parts,
        held,
        changes=changes,
        kind="ensemble",
        device=place,
        force=force,
        begun=begun,
        plugins=context.plugins,
        progress=context.progress,
    )
    return Combined(run=run, parts=tuple(members), against=run.record["ensemble"]["against"])


def _classes_as_in(first: Run, run: Run) -> list[str]:
    """The classes of a run in the order of its logits, as another run spells them.

    Raises:
        UsageError: they are others.
    """
    known = dict(zip(keys(first.classes), first.classes))
    found = keys(run.classes)
    only = sorted(set(known) ^ set(found))
    if only:
        owner = first if only[0] in known else run
        raise UsageError(
            f"runs `{first.path}` and `{run.path}` have other classes: only `{owner.path}` has `{only[0]}`",
            hint="an ensemble needs runs of the same classes; their order does not matter",
        )
    return [known[name] for name in found]


def _check_crops(first: Run, run: Run) -> None:
    """Raise a `UsageError` unless images are cropped alike; means and deviations of colours may differ."""
    one, other = first.preprocess, replace(run.preprocess, mean=first.preprocess.mean, std=first.preprocess.std)
    if one == other:
        return
    ours, theirs = one.to_json(), other.to_json()
    key = next(key for key in ours if ours[key] != theirs.get(key))
    raise UsageError(
        f"runs `{first.path}` and `{run.path}` prepare images in another way: `{key}` is {ours[key]} and {theirs[key]}",
        hint="one file has one input, so resizing and cropping must be the same: train both with the same "
        "`--image-size` and `--fit`; colours may be normalised differently",
    )


def _weights(parts: Sequence[SourceRun]) -> dict[str, Any]:
    """What the record says of the weights that training started from: of all parts, where they differ."""
    found = [dict(part.run.record.get("weights") or {}) for part in parts]
    texts = {key: list(dict.fromkeys(str(one.get(key)) for one in found)) for key in ("tag", "source", "license")}
    if all(len(values) == 1 for values in texts.values()):
        return found[0]
    return {**{key: " and ".join(values) for key, values in texts.items()}, "sha256": None}
