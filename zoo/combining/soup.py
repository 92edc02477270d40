"""Soup: one network whose weights are the mean of those of several runs, which are taken greedily.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", recipe 1: the runs are tried from the best to the worst, and each stays in the mean if the mean is at
least as good with it on held-out images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.combining.making import (
    BATCH,
    Combined,
    choose_folder,
    class_indices,
    log_loss,
    logits_of,
    new_temperature,
    write_run,
)
from zoo.combining.parts import HeldOut, crops, find_held_out, open_parts
from zoo.config.context import Context
from zoo.data.splitting import balanced_order
from zoo.errors import UsageError, counted
from zoo.networks.inputs import inputs_of
from zoo.networks.predictor import full_precision
from zoo.networks.trained import last_linear, same_tensors
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.run import Run
from zoo.runs.source_run import SourceRun
from zoo.system.device import choose_device

Criterion = Literal["loss", "accuracy"]
# Training images from which statistics of batch norms are estimated again: with a thousand they are as good as with all
# (Wu and Johnson 2021, "Rethinking Batch in BatchNorm", section 3.1)
MOST_FOR_NORMS = 1024
_NORMS = nn.modules.batchnorm._BatchNorm

State = dict[str, torch.Tensor]


def soup(
    runs: Sequence[Run | Path | str],
    *,
    by: Criterion = "loss",
    out: Path | str | None = None,
    force: bool = False,
    data: str | None = None,
    device: str = "auto",
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Combined:
    """Average the weights of several runs into one network, taking a run only if the mean is not worse with it.

    Args:
        runs: The runs, or their folders; of the same backbone, preprocessing, classes and data.
        by: What decides on the images of validation: the `loss`, or the `accuracy`, where equal is good enough.
        out: The folder of the new run. None: a new one below `runs/`.
        force: Replace the run in `out`.
        data: The data, if they were moved. None: the path that the first run records.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: the runs cannot be averaged: fewer than two, the same twice, another backbone, preprocessing or
            classes, a head that is no linear layer, or other held-out images; or `out` exists without `force`.
        ZooError: a run is not finished or damaged, or images are missing or have changed.
    """
    begun = time.perf_counter()
    context = Context.of(plugins, progress)
    if by not in get_args(Criterion):
        raise UsageError(
            f"`{by}` does not decide which runs are taken", hint=f"it is {' or '.join(get_args(Criterion))}"
        )
    place = choose_device(device, "fp32").place
    parts = open_parts(runs, "soup")
    _check_alike(parts)
    folder = choose_folder(out, force, parts, (str(parts[0].run.record["backbone"]), "soup"))
    networks = [part.run.load_network(context.plugins) for part in parts]
    _check_heads(parts, networks)
    held = find_held_out(parts, data, context.plugins, context.progress)
    labels = class_indices(held.samples, parts[0].run.classes)
    context.progress.note(f"{held.chosen_among} decide which of {len(parts)} runs are taken, by their {by}")
    shown = crops(held.samples, parts[0].run.preprocess)
    scores = [_figures(logits_of(one, shown, part, place), labels) for one, part in zip(networks, parts)]
    states = [_without_temperature(one, part) for one, part in zip(networks, parts)]
    order = sorted(range(len(parts)), key=lambda number: _rank(scores[number], by))
    norms = _Norms(parts[order[0]], held, place)
    network = networks[order[0]]
    context.progress.start("try runs", len(parts), "runs")
    taken = [order[0]]
    best = _trial(network, states, taken, parts, shown, labels, norms, place)
    for number in order[1:]:
        context.progress.advance(1)
        tried = _trial(network, states, [*taken, number], parts, shown, labels, norms, place)
        if _rank(tried[0], by)[0] <= _rank(best[0], by)[0]:
            taken, best = [*taken, number], tried
    context.progress.stop()
    _load_mean(network, states, taken, norms)
    mean = _mean_temperature(parts, taken)
    temperature = new_temperature(best[1], labels, held, mean)
    _divide(network, float(temperature["value"]))
    ingredients = [
        {**part.to_json(), "taken": number in taken, **scores[number], "place": order.index(number) + 1}
        for number, part in enumerate(parts)
    ]
    changes = {
        "temperature": temperature,
        "soup": {
            "by": by,
            "ingredients": ingredients,
            "chosen_on": held.chosen_on,
            "images": len(held.samples),
            "norms": norms.told(states, taken),
            **best[0],
        },
        "chosen_on": held.chosen_on,
        "notes": [f"a soup of {len(taken)} of {len(parts)} runs"],
    }
    run = write_run(
        folder,
        network,
        parts[order[0]],
        parts,
        held,
        changes=changes,
        kind="soup",
        device=place,
        force=force,
        begun=begun,
        plugins=context.plugins,
        progress=context.progress,
    )
    return Combined(run=run, parts=tuple(ingredients), against=run.record["soup"]["against"])


def _check_alike(parts: Sequence[SourceRun]) -> None:
    """Raise a `UsageError` unless all parts have the same backbone, preprocessing and classes."""
    first = parts[0].run
    for part in parts[1:]:
        run = part.run
        for what, one, other in (
            ("backbones", first.record["backbone"], run.record["backbone"]),
            ("preprocessing", first.preprocess, run.preprocess),
            ("classes", first.classes, run.classes),
        ):
            if one != other:
                told = f": `{one}` and `{other}`" if what == "backbones" else ""
                raise UsageError(
                    f"runs `{first.path}` and `{run.path}` have other {what}{told}, so their weights "
                    "cannot be averaged",
                    hint="`zoo ensemble` averages probabilities, of other backbones, too",
                )


def _check_heads(parts: Sequence[SourceRun], networks: Sequence[Network]) -> None:
    """Raise a `UsageError` unless all networks have the same tensors and end in a linear layer."""
    for part, network in zip(parts, networks):
        if last_linear(network) is None:
            raise UsageError(
                f"the head of run `{part.run.path}` (`{part.run.record['strategy']}`) is no linear layer, so its "
                "values cannot be averaged",
                hint="leave it out; `zoo ensemble` takes heads of every kind",
            )
        name = same_tensors(networks[0].model.state_dict(), network.model.state_dict())
        if name is not None:
            first = parts[0].run
            raise UsageError(
                f"runs `{first.path}` (`{first.record['strategy']}`) and `{part.run.path}` "
                f"(`{part.run.record['strategy']}`) have other layers: `{name}` is not the same",
                hint="leave one of the two out; `zoo ensemble` averages probabilities, of other networks, too",
            )


def _figures(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    return {"loss": log_loss(logits, labels), "accuracy": float((logits.argmax(1) == labels).mean())}


def _rank(figures: dict[str, float], by: Criterion) -> tuple[float, float]:
    """Lower is better; of equal accuracies, the lower loss."""
    return (figures["loss"], 0.0) if by == "loss" else (-figures["accuracy"], figures["loss"])


def _without_temperature(network: Network, part: SourceRun) -> State:
    """The state of a network whose head is not divided by its temperature, on the CPU."""
    network.model.cpu()
    _divide(network, 1 / part.temperature)
    return {name: value.clone() for name, value in network.model.state_dict().items()}


def _divide(network: Network, temperature: float) -> None:
    layer = last_linear(network)
    assert layer is not None
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.div_(temperature)


def _mean_temperature(parts: Sequence[SourceRun], taken: Sequence[int]) -> float:
    """The geometric mean of the temperatures of some parts."""
    return math.exp(sum(math.log(parts[number].temperature) for number in taken) / len(taken))


class _Norms:
    """Statistics of batch norms: kept where all networks have the same, else estimated again for the mean network.

    A run whose norms are frozen has the statistics of the weights that it started from. Where they were trained, the
    mean of two networks' statistics is not the statistics of the mean network.
    """

    def __init__(self, part: SourceRun, held: HeldOut, place: Any) -> None:
        self._part, self._held, self._place = part, held, place
        self._pixels: npt.NDArray[np.uint8] | None = None

    def differ(self, states: Sequence[State], taken: Sequence[int]) -> bool:
        """Whether the taken networks have other statistics."""
        names = [name for name in states[0] if name.endswith(("running_mean", "running_var"))]
        first = states[taken[0]]
        return any(not torch.equal(states[number][name], first[name]) for number in taken[1:] for name in names)

    def told(self, states: Sequence[State], taken: Sequence[int]) -> str:
        """What was done, for the record."""
        count = min(len(self._held.fit), MOST_FOR_NORMS)
        return f"estimated again on {counted(count, 'training image')}" if self.differ(states, taken) else "kept"

    def estimate(self, network: Network) -> None:
        """Set the statistics of a network to those of training images without augmentation, in place."""
        if self._pixels is None:
            samples = balanced_order(self._held.fit, 0)[:MOST_FOR_NORMS]
            self._pixels = crops(samples, self._part.run.preprocess)
        model = network.model.eval().to(self._place)
        layers = [layer for layer in model.modules() if isinstance(layer, _NORMS) and layer.track_running_stats]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
            layer.train()
        batches = range(0, len(self._pixels), BATCH)
        with torch.no_grad(), full_precision():
            for start in batches:
                some = self._pixels[start : start + BATCH]
                if len(some) > 1 or len(batches) == 1:
                    model(inputs_of(some, self._part.run.preprocess, self._place))
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.eval()


def _load_mean(network: Network, states: Sequence[State], taken: Sequence[int], norms: _Norms) -> None:
    """Load the mean of some states, in place. Whole numbers, such as counts of batches, are those of the first."""
    network.model.cpu()
    mean = {}
    for name, first in states[taken[0]].items():
        if first.is_floating_point() and len(taken) > 1:
            mean[name] = torch.stack([states[number][name].double() for number in taken]).mean(0).to(first.dtype)
        else:
            mean[name] = first
    network.model.load_state_dict(mean)
    if norms.differ(states, taken):
        norms.estimate(network)


def _trial(
    network: Network,
    states: Sequence[State],
    taken: Sequence[int],
    parts: Sequence[SourceRun],
    shown: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    norms: _Norms,
    place: Any,
) -> tuple[dict[str, float], npt.NDArray[np.float32]]:
    """Figures of the mean of some states, at the mean of their temperatures, and its logits before that."""
    _load_mean(network, states, taken, norms)
    logits = logits_of(network, shown, parts[taken[0]], place)
    return _figures(logits / _mean_temperature(parts, taken), labels), logits
