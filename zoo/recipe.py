"""The recipe: carry out a plan of phases on a network. The whole of training, top to bottom.

For every phase: freeze, take the proof's baseline, build the optimiser, step through the epochs, check the proof.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.augment import draw_views, image_key, make_view
from zoo.backbone import Network
from zoo.device import Device
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.files import SCHEMA
from zoo.freeze import FrozenProof, apply_phase, recalibrate, set_modes
from zoo.predictor import TorchPredictor
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.scan import Scanned
from zoo.schedule import factor
from zoo.stage import Anatomy
from zoo.strategy import Phase

# `plateau` divides the rate by ten after two epochs without a better choice loss
PLATEAU_PATIENCE = 2
PLATEAU_FACTOR = 0.1

# The n-th showing of an image in one epoch is view `epoch + n * REPEAT`; no run has as many epochs
REPEAT = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a rate and a weight decay, by name."""

    names: tuple[str, ...]
    lr: float  # at its highest
    weight_decay: float


def plan_groups(network: Network, phase: Phase, experiment: Experiment) -> tuple[ParameterGroup, ...]:
    """The optimiser's groups of a phase: each trainable parameter in exactly one.

    Biases and norms (one dimension or none) are not decayed: He et al. 2019, "Bag of Tricks", section 3.1.
    """
    shapes = {name: parameter.ndim for name, parameter in network.model.named_parameters()}
    groups = []
    for group in phase.groups:
        names = network.anatomy.parameters_of(group.stages)
        for decay, members in (
            (experiment.weight_decay, tuple(name for name in names if shapes[name] > 1)),
            (0.0, tuple(name for name in names if shapes[name] <= 1)),
        ):
            if members:
                rate = experiment.lr * phase.lr * group.lr
                groups.append(ParameterGroup(names=members, lr=rate, weight_decay=decay))
    return tuple(groups)


def make_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], experiment: Experiment) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum 0.9, over the planned groups."""
    parameters = dict(model.named_parameters())
    rows = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "peak": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    if experiment.optimizer == "sgd":
        return torch.optim.SGD(rows, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(rows)


def epoch_order(labels: np.ndarray[Any, Any], experiment: Experiment, epoch: int) -> np.ndarray[Any, Any]:
    """Indices of an epoch, by seed and epoch: a permutation, or draws that balance the classes."""
    generator = np.random.default_rng([experiment.seed, epoch])
    if experiment.class_balance != "sample":
        return generator.permutation(len(labels))
    counts = np.bincount(labels)
    shares = 1.0 / counts[labels]
    return generator.choice(len(labels), size=len(labels), p=shares / shares.sum())


def batches(order: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """Cut an epoch's indices into batches; a last one of a single image joins the one before.

    A batch norm over a 1 x 1 map cannot train on one image, and no image should be left out.
    """
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(cuts) > 1 and len(cuts[-1]) == 1:
        cuts[-2:] = [np.concatenate(cuts[-2:])]
    return cuts


class Recipe:
    """One training run in memory. `fit` yields a history record per epoch; the network is trained in place."""

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        epochs: Sequence[int],
        *,
        experiment: Experiment,
        preprocess: Preprocess,
        device: Device,
        train: Scanned,
        choose: Scanned | None,
        progress: Progress,
    ) -> None:
        self.network = network
        self.phases = tuple(phases)
        self.epochs = tuple(epochs)
        self.experiment = experiment
        self.device = device
        self.train = train
        self.choose = choose
        self.progress = progress
        self.groups = tuple(plan_groups(network, phase, experiment) for phase in phases)
        self.model = network.model.to(device.place).to(memory_format=torch.channels_last)
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        if experiment.compile:
            self.forward = torch.compile(self.model)
        self.predictor = TorchPredictor(self.model, (), preprocess, device.place)
        self.view = make_view(experiment.augment, preprocess.crop)
        self.keys = [image_key(sample.id) for sample in train.samples]
        self.plain_view = make_view("none", preprocess.crop)
        self.canvases = torch.from_numpy(train.pixels).permute(0, 3, 1, 2)  # N x 3 x R x R, uint8
        self.labels = torch.from_numpy(train.labels)
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(preprocess.mean).mul(255).reshape(shape).to(device.place)
        self.scale = torch.tensor(preprocess.std).mul(255).reciprocal().reshape(shape).to(device.place)
        self.criterion = nn.CrossEntropyLoss(
            weight=self._class_weights(), label_smoothing=experiment.label_smoothing
        ).to(device.place)

    @property
    def anatomy(self) -> Anatomy:
        return self.network.anatomy

    def fit(self) -> Iterator[dict[str, Any]]:
        """Carry out every phase; one record per epoch.

        Raises:
            ZooError: the loss is no longer finite, or something frozen moved.
        """
        first = 0
        best = Best()  # of the whole run
        for number, (phase, epochs) in enumerate(zip(self.phases, self.epochs)):
            yield from self._fit_phase(number, phase, epochs, first, best)
            first += epochs
        if self.experiment.keep == "best" and best.state is not None:
            self.model.load_state_dict(best.state)

    def _fit_phase(
        self, number: int, phase: Phase, epochs: int, first: int, best_of_run: Best
    ) -> Iterator[dict[str, Any]]:
        apply_phase(self.model, self.anatomy, phase)
        if phase.norm == "recalibrate":
            recalibrate(self.model, self._plain_batches())
            set_modes(self.model, phase.norm)
        proof = FrozenProof(self.model, phase.norm)
        optimizer = make_optimizer(self.model, self.groups[number], self.experiment)
        steps_per_epoch = len(batches(np.arange(len(self.labels)), self.experiment.batch_size))
        best = Best()  # of this phase: what early stopping and `plateau` look at
        lowered = 1.0
        for epoch in range(first, first + epochs):
            self.progress.start(f"epoch {epoch + 1}/{sum(self.epochs)} {phase.name}", len(self.labels))
            set_modes(self.model, phase.norm)
            step = (epoch - first) * steps_per_epoch
            record = self._train_epoch(epoch, optimizer, step, epochs * steps_per_epoch, lowered)
            started = perf_counter()
            proof.check(f"in epoch {epoch + 1}")
            record = {"schema": SCHEMA, "phase": phase.name, "epoch": epoch + 1, **record}
            if self.choose is not None:
                record |= self._evaluate(self.choose)
            record["seconds"]["evaluate"] = round(perf_counter() - started, 3)
            if "choice_loss" in record:
                stops = self.experiment.early_stopping is not None
                best.note(record["choice_loss"], epoch, self.model if stops else None)
                best_of_run.note(record["choice_loss"], epoch, self.model if self.experiment.keep == "best" else None)
                if self.experiment.schedule == "plateau" and best.waited(epoch) >= PLATEAU_PATIENCE:
                    lowered *= PLATEAU_FACTOR
                    best.since = epoch
            self.progress.epoch(record)
            yield record
            patience = self.experiment.early_stopping
            if patience is not None and epoch - max(best.epoch, first) >= patience and epoch + 1 < first + epochs:
                self.progress.note(f"stopped early: epoch {best.epoch + 1} stays the best of `{phase.name}`")
                break
        if best.state is not None:
            self.model.load_state_dict(best.state)

    def _train_epoch(
        self, epoch: int, optimizer: torch.optim.Optimizer, step: int, steps: int, lowered: float
    ) -> dict[str, Any]:
        losses, right, drawing, seen = 0.0, 0, 0.0, 0
        started = perf_counter()
        order = epoch_order(self.train.labels, self.experiment, epoch)
        drawn_before = [0] * len(self.keys)  # in this epoch; a balanced one shows rare images several times
        for offset, indices in enumerate(batches(order, self.experiment.batch_size)):
            rate = lowered * factor(self.experiment.schedule, step + offset, steps, self.experiment.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            drawn = perf_counter()
            asked = []
            for index in indices.tolist():
                asked.append((self.keys[index], epoch + REPEAT * drawn_before[index]))
                drawn_before[index] += 1
            views = draw_views(self.canvases[indices], asked, self.view, self.experiment.seed)
            drawing += perf_counter() - drawn
            labels = self.labels[indices].to(self.device.place)
            logits = self._step(self._inputs(views), labels, optimizer, epoch)
            losses += logits[0] * len(indices)
            right += logits[1]
            seen += len(indices)
            self.progress.advance(len(indices))
        seconds = perf_counter() - started
        return {
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "train_loss": losses / seen,
            "train_accuracy": right / seen,
            "images_per_second": round(seen / seconds, 1),
            "seconds": {"data": round(drawing, 3), "compute": round(seconds - drawing, 3)},
        }

    def _step(
        self, inputs: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer, epoch: int
    ) -> tuple[float, int]:
        """One optimiser step on `(N, 3, H, W)`; returns the loss and how many images were right."""
        try:
            with torch.autocast(self.device.place.type, self.device.autocast, enabled=self.device.autocast is not None):
                logits = self.forward(inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ZooError(
                "a batch norm over a 1 x 1 map cannot train on a batch of one image",
                hint="pass `--batch-size 2` or more, a larger `--image-size`, or `--norm frozen`",
            ) from error
        loss = self.criterion(logits.float(), labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ZooError(
                f"the loss is {value} in epoch {epoch + 1}: training diverged",
                hint=f"pass a lower `--lr` than {self.experiment.lr:g}, or clip with `--clip 1.0`",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.experiment.clip:
            nn.utils.clip_grad_norm_(
                [parameter for group in optimizer.param_groups for parameter in group["params"]], self.experiment.clip
            )
        optimizer.step()
        return value, int((logits.detach().argmax(1) == labels).sum())

    def _inputs(self, views: torch.Tensor) -> torch.Tensor:
        """Views `(N, 3, H, W)` uint8 to normalised float32 on the device, channels last."""
        moved = views.to(self.device.place, torch.float32)
        return moved.sub_(self.mean).mul_(self.scale).contiguous(memory_format=torch.channels_last)

    def _plain_batches(self) -> Iterator[torch.Tensor]:
        for indices in batches(np.arange(len(self.labels)), self.experiment.batch_size):
            views = torch.stack([self.plain_view(canvas) for canvas in self.canvases[indices]])
            yield self._inputs(views)

    def _evaluate(self, split: Scanned) -> dict[str, Any]:
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(split.labels), self.experiment.batch_size):
            part = slice(start, start + self.experiment.batch_size)
            logits = torch.from_numpy(self.predictor.logits_of_pixels(split.pixels[part]))
            labels = torch.from_numpy(split.labels[part])
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        return {"choice_loss": loss / len(split.labels), "choice_accuracy": right / len(split.labels)}

    def _class_weights(self) -> torch.Tensor | None:
        if self.experiment.class_balance != "loss":
            return None
        counts = np.bincount(self.train.labels)
        return torch.tensor(len(self.train.labels) / (len(counts) * counts), dtype=torch.float32)


class Best:
    """The epoch of a phase with the lowest choice loss, and its weights where they are kept."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.epoch = -1
        self.since = -1  # of the last improvement, or of the last lowered rate
        self.state: dict[str, Any] | None = None

    def note(self, loss: float, epoch: int, model: nn.Module | None) -> None:
        if loss < self.loss:
            self.loss, self.epoch, self.since = loss, epoch, epoch
            self.state = copy.deepcopy(model.state_dict()) if model is not None else None

    def waited(self, epoch: int) -> int:
        return epoch - self.since
