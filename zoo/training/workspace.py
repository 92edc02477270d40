"""Workspace: the network on its device, and everything else that the phases of a run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.swa_utils import AveragedModel

from zoo.data.augmentation import drawing_of
from zoo.feature_cache.loader import AugmentedViews, PrefixOutputs, Seconds, default_views
from zoo.networks.batchnorm_folding import FoldedSteps
from zoo.networks.head import find_head
from zoo.networks.predictor import TorchPredictor
from zoo.networks.tracing import SMALL_BATCH, noise
from zoo.strategy import Phase
from zoo.system.ranks import ALONE, Ranks
from zoo.training.distillation import TaughtViews
from zoo.training.feature_distance import (
    ATTENTION,
    MOST_WEIGHED,
    WEIGHED_AT_ONCE,
    FeatureDistance,
    map_layers,
    teacher_of,
)
from zoo.training.lr_schedule import RateSchedule
from zoo.training.optimizer import changed_by, make_optimizer, plan_groups, pulled_by
from zoo.training.preparation import Job, feature_cache
from zoo.training.sampler import REPEAT, batches, class_weights
from zoo.training.step import Stepper
from zoo.training.validation import validation_logits


class Workspace:
    """The network of a job, ready to be trained.

    Attributes:
        groups: the optimiser's parameter groups of every phase.
        start: initial values, by name, of all parameters that a phase pulls towards their initial values.
        teacher: the initial network, frozen, where a phase pulls feature maps towards its own.
        views: augmented views of the training images.
    """

    def __init__(self, job: Job, ranks: Ranks = ALONE) -> None:
        experiment, device = job.experiment, job.setup.device
        assert experiment.lr != "find", "`--lr find` is resolved before"
        self.job = job
        self.experiment = experiment
        self.device = device
        self.network = job.network
        self.phases, self.epochs = job.phases.phases, job.phases.epochs
        self.train, self.choose = job.decoded["fit"], job.decoded.get("choose")
        self.groups = tuple(plan_groups(self.network, phase, experiment, experiment.lr) for phase in self.phases)
        self.model = self.network.model.to(device.place).to(memory_format=torch.channels_last)
        self.start = self._start()
        self.teacher = teacher_of(self.model) if any(phase.feature_pull for phase in self.phases) else None
        self.forward: Callable[..., torch.Tensor] = torch.compile(self.model) if experiment.compile else self.model
        self.classes = int(self.train.labels.max()) + 1
        self.stepper = Stepper(
            self.model,
            experiment=experiment,
            device=device,
            classes=self.classes,
            loss=job.setup.loss,
            class_weights=class_weights(self.train.labels, experiment),
            progress=job.context.progress,
            ranks=ranks,
        )
        self.predictor = TorchPredictor(self.model, (), job.setup.preprocess, device.place)
        drawing = drawing_of(job.setup.augment)
        self.views = AugmentedViews(self.train, drawing, experiment.seed, job.setup.preprocess, device.place)
        self.labels = torch.from_numpy(self.train.labels)
        self.cache = feature_cache(job)
        self.schedule = RateSchedule(job.setup.schedule, experiment.warmup)

    @property
    def steps_per_epoch(self) -> int:
        return len(batches(np.arange(len(self.labels)), self.experiment.batch_size))

    def make_optimizer(self, phase: int) -> torch.optim.Optimizer:
        """The optimiser of a phase, by its number."""
        return make_optimizer(self.model, self.groups[phase], self.job.setup.optimizer)

    def open_phase(
        self,
        phase: int,
        optimizer: torch.optim.Optimizer,
        *,
        fold: bool = True,
        restored: Mapping[str, torch.Tensor] | None = None,
    ) -> PhaseSteps:
        """The steps of a phase, by its number, on a network that the phase has been applied to.

        Where possible, the network is split at the end of its frozen prefix, and steps begin there. With `fold`, batch
        norms with fixed statistics are folded into their convolutions while a step computes. `restored` are the tensors
        of a checkpoint of this phase.
        """
        return PhaseSteps(self, phase, optimizer, fold=fold, restored=restored)

    def plain_batches(self) -> Iterator[torch.Tensor]:
        """All training images without augmentation, in order, as batches of inputs `(N, 3, H, W)`."""
        plain = self.views.plain()
        for indices in batches(np.arange(len(self.labels)), self.experiment.batch_size):
            yield plain.inputs(indices, [0] * len(indices))
            self.job.context.progress.advance(len(indices))

    def weighing_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Up to `MOST_WEIGHED` training images without augmentation, evenly spread, with their labels."""
        count = len(self.labels)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_WEIGHED)).round().astype(np.int64))
        plain, progress = self.views.plain(), self.job.context.progress
        progress.start("weights of channels", len(chosen))
        for indices in batches(chosen, min(self.experiment.batch_size, WEIGHED_AT_ONCE)):
            yield plain.inputs(indices, [0] * len(indices)), self.labels[indices].to(self.device.place)
            progress.advance(len(indices))

    def validation_outputs(self, phase: Phase) -> PrefixOutputs | None:
        """Cached outputs of the prefix that a phase freezes, for the validation images; None where there are none."""
        if self.choose is None:
            return None
        return self.cache.evaluation_outputs(self.network, changed_by(self.network, phase), self.choose)

    def validate(self, outputs: PrefixOutputs | None, average: AveragedModel | None = None) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of the validation images, computed with the averaged weights if there are any."""
        assert self.choose is not None
        model = average.module if average is not None else None
        return validation_logits(self.predictor, self.choose, self.experiment.batch_size, outputs=outputs, model=model)

    def _start(self) -> dict[str, torch.Tensor]:
        names = {name for phase in self.phases for name in pulled_by(self.network, phase)}
        return {name: value.detach().clone() for name, value in self.model.named_parameters() if name in names}


class PhaseSteps:
    """The optimiser steps of one phase: their inputs, and the function that they differentiate."""

    def __init__(
        self,
        workspace: Workspace,
        number: int,
        optimizer: torch.optim.Optimizer,
        *,
        fold: bool,
        restored: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._workspace = workspace
        self.optimizer = optimizer
        self.phase = phase = workspace.phases[number]
        self.pulled: Mapping[str, torch.Tensor] = {
            name: workspace.start[name] for name in pulled_by(workspace.network, phase)
        }
        self._views: int | None = workspace.experiment.views
        self._outputs: PrefixOutputs | None = None  # of the frozen prefix for the training images
        self._forward = workspace.forward
        self.validation_outputs: PrefixOutputs | None = None
        self.distance = self._distance(restored)
        self.taught = self._taught()
        self.head = None if phase.bss is None else find_head(workspace.network)
        self._split(workspace.epochs[number])
        if fold:
            self._fold()

    def _distance(self, restored: Mapping[str, torch.Tensor] | None) -> FeatureDistance | None:
        """The distance that the phase adds to the loss, with the channel weights of a checkpoint where there is one."""
        workspace = self._workspace
        if not self.phase.feature_pull:
            return None
        assert workspace.teacher is not None
        layers = map_layers(workspace.network, workspace.predictor.preprocess.crop)
        distance = FeatureDistance(workspace.model, workspace.teacher, layers)
        if restored is None:
            distance.weigh(workspace.weighing_batches())
        else:
            kept = [restored[f"{ATTENTION}{layer.path}"] for layer in layers]
            distance.weights = tuple(weights.to(workspace.device.place) for weights in kept)
        return distance

    def _taught(self) -> TaughtViews | None:
        """The logits of the phase's teacher; the views are those that the steps take."""
        workspace = self._workspace
        if self.phase.distill is None:
            return None
        teacher, context = workspace.job.teachers[self.phase.distill], workspace.job.context
        return TaughtViews(teacher, workspace.views, context.plugins, context.progress)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of the phase beside the network and the optimiser."""
        if self.distance is None:
            return {}
        pairs = zip(self.distance.layers, self.distance.weights, strict=True)
        return {f"{ATTENTION}{layer.path}": weights for layer, weights in pairs}

    def _split(self, epochs: int) -> None:
        workspace, phase = self._workspace, self.phase
        trainable = changed_by(workspace.network, phase)
        split = None if phase.needs_images else workspace.cache.split(workspace.network, trainable)
        if split is None:
            return
        self._views = self._views or default_views(epochs)
        self._outputs = workspace.cache.outputs(
            split,
            workspace.views,
            epochs=epochs,
            views=min(self._views, epochs),
            title=f"frozen prefix of {phase.name}",
        )
        self._forward = torch.compile(split.rest) if workspace.experiment.compile else split.rest
        self.validation_outputs = workspace.validation_outputs(phase)

    def _fold(self) -> None:
        workspace = self._workspace
        if self.phase.norm == "train" or workspace.device.place.type != "cpu" or workspace.experiment.compile:
            return  # in measurements, folding saved time only on a CPU
        if self.distance is not None:
            return  # a folded convolution gives other maps than the teacher's
        images = noise(SMALL_BATCH, workspace.predictor.preprocess.crop, workspace.device.place)
        folded, forward = FoldedSteps(workspace.model, images), self._forward

        def folded_forward(*inputs: torch.Tensor) -> torch.Tensor:
            with folded.step():
                return forward(*inputs)

        self._forward = folded_forward

    def view(self, epoch: int, times: int) -> int:
        """Number of the view that is shown when an image comes for the `times`-th time (from 0) in an epoch."""
        return epoch + REPEAT * times if self._views is None else (epoch + times) % self._views

    def prepare(self, view: int) -> None:
        """Compute and cache the prefix's outputs of a view for all training images, where outputs are cached."""
        if self._outputs is not None:
            self._outputs.prepare(view)
        if self.taught is not None:
            self.taught.prepare(view)

    def step(
        self, indices: npt.NDArray[np.int64], views: Sequence[int], *, epoch: int, batch: int
    ) -> tuple[float, int]:
        """Take one step on the images at `indices`, each in its view; returns the mean loss and the number right.

        Raises:
            Diverged: the loss is not finite.
            ZooError: one image alone does not fit into memory.
        """
        workspace = self._workspace

        def take(cut: slice) -> tuple[torch.Tensor, ...]:
            if self._outputs is not None:
                return self._outputs.take(indices[cut], views[cut])
            return (workspace.views.inputs(indices[cut], views[cut]),)

        labels = workspace.labels[indices].to(workspace.device.place)
        return workspace.stepper.step(
            self._forward,
            take,
            labels,
            self.optimizer,
            self.phase,
            epoch=epoch,
            batch=batch,
            start=self.pulled,
            distance=self.distance,
            head=self.head,
            taught=None if self.taught is None else self.taught.rows(indices, views).to(workspace.device.place),
        )

    def spent(self) -> tuple[float, float, float]:
        """Seconds so far: views drawn, prefix computed, cached outputs read and written."""
        spent = self._outputs.spent if self._outputs is not None else Seconds()
        return self._workspace.views.drawing, spent.prefix, spent.store
