"""One optimiser step: a batch, in as many parts as memory requires, and everything that affects its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch import nn

from zoo.config.choice import Choice
from zoo.errors import Diverged, ZooError, counted
from zoo.experiment import Experiment
from zoo.networks.freezing import keeps_statistics
from zoo.progress import Progress
from zoo.strategy import Phase
from zoo.system.accelerator import release_memory
from zoo.system.device import Device, training_precision
from zoo.system.lazy_compiler import without_compiler
from zoo.system.ranks import ALONE, Ranks
from zoo.training.distillation import taught_loss
from zoo.training.feature_distance import FeatureDistance
from zoo.training.loss import BatchLoss
from zoo.training.optimizer import take_step
from zoo.training.part_gradients import gradients_of_ranks
from zoo.training.running_statistics import RunningStatistics
from zoo.training.sampler import seed_step
from zoo.training.spectral_shrinkage import spectral_penalty, watched_features
from zoo.training.stochastic_norm import StochasticNorms

# The inputs of some images of a batch, by their places in it
Take = Callable[[slice], tuple[torch.Tensor, ...]]


class Stepper:
    """The optimiser steps of one run.

    The gradient of a batch computed in parts is that of the whole batch. Only batch norms that update their statistics
    (`norm=train`) and batch spectral shrinkage (`bss`) see the parts.

    Attributes:
        parts: number of parts that a batch is computed in; it doubles when memory runs out.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        experiment: Experiment,
        device: Device,
        classes: int,
        loss: Choice,
        class_weights: torch.Tensor | None,
        progress: Progress,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.experiment = experiment
        self.device = device
        self.classes = classes
        self.class_weights = None if class_weights is None else class_weights.to(device.place)
        self.loss = BatchLoss(loss, self.class_weights, experiment.label_smoothing)
        self.progress = progress
        self.ranks = ranks
        self.parts = min(experiment.accumulate, experiment.batch_size)

    def step(
        self,
        forward: Callable[..., torch.Tensor],
        inputs: tuple[torch.Tensor, ...] | Take,
        labels: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        phase: Phase,
        *,
        epoch: int,
        batch: int,
        start: Mapping[str, torch.Tensor],
        distance: FeatureDistance | None = None,
        taught: torch.Tensor | None = None,
        head: nn.Module | None = None,
    ) -> tuple[float, int]:
        """Take one step; returns the mean loss and the number of images classified correctly.

        Args:
            forward: maps `inputs` to logits `(N, classes)`.
            inputs: tensors with N rows each: images, or cached outputs of the frozen prefix; or a function that makes
                the rows of some, so that each rank makes those of its own parts.
            labels: `(N,)`.
            optimizer: its learning rates are set.
            phase: for `mixup`, `cutmix`, `bss`, `stochnorm`, `norm`, `pull`, `feature_pull` and `distill`.
            epoch: seeds the step, together with `batch`.
            batch: number of the batch in its epoch.
            start: initial values of the parameters that the phase pulls towards them, by name.
            distance: of the feature maps, for `feature_pull`.
            taught: logits of the teacher `(N, classes)`, for `distill`.
            head: the module that takes the features, for `bss`.

        Raises:
            Diverged: the loss is not finite.
            ZooError: the smallest possible part, of one or two images, does not fit into memory.
        """
        mixes = phase.mixup is not None or phase.cutmix is not None
        if callable(inputs) and (mixes or self.ranks.size == 1):
            inputs = inputs(slice(None))
        place = (self.experiment.seed, epoch, batch)
        least = _least_images(phase)
        asked = self.parts
        while True:
            parts = self.parts_of(phase, len(labels))
            kept = self._statistics(phase)
            seed_step(*place)
            shown, targets = inputs, labels
            if mixes and not callable(inputs):
                mixed, targets = self._mix(inputs[0], labels, phase)
                shown = (mixed,)
            try:
                loss, right = self._gradients(
                    forward, shown, targets, optimizer, parts, place, distance, phase, taught, head
                )
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if parts >= max(len(labels) // least, 1):  # no part can be smaller
                    raise ZooError(
                        f"{'two images' if least == 2 else 'one image'} at a time "
                        f"{'do' if least == 2 else 'does'} not fit into the memory of `{self.device.place}`",
                        hint="pass a smaller `--image-size`, a smaller backbone, or a strategy that trains less",
                    ) from error
            self.parts = 2 * parts
            for buffer, value in kept:  # the failed pass may have updated running statistics
                buffer.copy_(value)
            release_memory(self.device.place)
        if self.parts != asked:
            self.progress.warn(
                f"out of memory: a batch of {len(labels)} is now computed in {counted(parts, 'part')}; "
                f"{self._same(phase)}"
            )
        self._pull(phase, start)
        if self.experiment.clip:
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.experiment.clip)
        take_step(optimizer, self.experiment.optimizer)
        return loss, right

    def _same(self, phase: Phase) -> str:
        """What of a step does not depend on the number of parts, for the user."""
        by_part = ["batch norms see the parts"] if phase.norm == "train" else []
        if phase.bss is not None:
            by_part.append("`bss=` sees the parts")
        if any(module.training and _drops(module) for module in self.model.modules()):
            by_part.append("dropout draws for each part")
        return f"the gradient is the same, but {' and '.join(by_part)}" if by_part else "the result is the same"

    def _mix(self, inputs: torch.Tensor, labels: torch.Tensor, phase: Phase) -> tuple[torch.Tensor, torch.Tensor]:
        from torchvision.transforms import v2

        kinds: list[nn.Module] = []
        if phase.mixup is not None:
            kinds.append(v2.MixUp(alpha=phase.mixup, num_classes=self.classes))
        if phase.cutmix is not None:
            kinds.append(v2.CutMix(alpha=phase.cutmix, num_classes=self.classes))
        if len(labels) < 2:
            return inputs, labels
        mixed, targets = (v2.RandomChoice(kinds) if len(kinds) > 1 else kinds[0])(inputs, labels)
        return mixed.contiguous(memory_format=torch.channels_last), targets

    def parts_of(self, phase: Phase, images: int) -> int:
        """The number of parts that a batch of so many images is computed in."""
        return min(self.parts, max(images // _least_images(phase), 1))

    def _gradients(
        self,
        forward: Callable[..., torch.Tensor],
        inputs: tuple[torch.Tensor, ...] | Take,
        targets: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        parts: int,
        place: tuple[int, int, int],
        distance: FeatureDistance | None,
        phase: Phase,
        taught: torch.Tensor | None,
        head: nn.Module | None,
    ) -> tuple[float, int]:
        """Compute the gradients of the batch's mean loss; returns the loss and the number of images that are right.

        The loss that is returned is that of the labels: without the penalties of `bss`, `feature_pull` and
        `pull`, and without the teacher's part.
        """
        with without_compiler():
            optimizer.zero_grad(set_to_none=True)
        whole = self._weight(targets)
        cuts = cuts_of(len(targets), parts)
        norms = None if phase.stochnorm is None else StochasticNorms(self.model, phase.stochnorm)
        logits = torch.empty(0)

        def compute(part: int) -> tuple[float, int]:
            nonlocal logits
            if part:
                seed_step(*place, part)  # the first goes on from what mixing has drawn
            cut = cuts[part]
            some, wanted = inputs(cut) if callable(inputs) else tuple(one[cut] for one in inputs), targets[cut]
            with ExitStack() as watching:
                features = None if head is None else watching.enter_context(watched_features(head))
                if norms is not None:
                    watching.enter_context(norms.drawn())
                watched = None if distance is None else watching.enter_context(distance.watching())
                logits = self._logits(forward, *some)
                if distance is not None:
                    with torch.no_grad():
                        self._logits(distance.teacher, *some)
            loss = total = self.loss(logits, wanted) / whole
            if watched is not None:
                total = total + phase.feature_pull / len(targets) * watched.penalty(len(wanted))
            if features is not None and phase.bss is not None:
                total = total + phase.bss * len(wanted) / len(targets) * spectral_penalty(features[0])
            if taught is not None:
                apart = taught_loss(logits, taught[cut], phase.distill_temperature) / len(targets)
                total = total + phase.distill_weight * (apart - loss)
            total.backward()  # type: ignore[no-untyped-call]
            answers = wanted if wanted.ndim == 1 else wanted.argmax(1)
            return float(loss.detach()), int((logits.detach().argmax(1) == answers).sum())

        if self.ranks.size == 1:
            value, right = 0.0, 0
            for part in range(parts):
                loss, correct = compute(part)
                value, right = value + loss, right + correct
        else:
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            statistics = RunningStatistics(self.model, phase.norm == "train")
            value, right = gradients_of_ranks(self.ranks, parts, compute, trained, statistics, is_out_of_memory)
        if not math.isfinite(value):
            self.loss.check(value, logits)
            raise Diverged(
                f"the loss is {value} in epoch {place[1] + 1}: training diverged",
                hint=f"pass a lower `--lr` than {self.experiment.lr}, or clip with `--clip 1.0`",
            )
        return value, right

    def _weight(self, targets: torch.Tensor) -> float:
        """The divisor of the summed loss: the number of images, or the sum of their labels' weights."""
        if self.class_weights is None:
            return float(len(targets))
        return float((self.class_weights[targets] if targets.ndim == 1 else targets @ self.class_weights).sum())

    def _logits(self, forward: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        try:
            with training_precision(self.device, self.experiment.compile):
                return forward(*inputs).float()
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ZooError(
                "a batch norm over a 1 x 1 map cannot train on a batch of one image",
                hint="pass `--batch-size 2` or more, a larger `--image-size`, or `--norm frozen`",
            ) from error

    def _statistics(self, phase: Phase) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """The buffers with running statistics that a step updates, each with a copy."""
        if phase.norm != "train":
            return ()
        layers = [module for module in self.model.modules() if module.training and keeps_statistics(module)]
        return [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]

    def _pull(self, phase: Phase, start: Mapping[str, torch.Tensor]) -> None:
        """Add the gradient of the penalty `pull / 2 * |w - start|^2`: Li et al. 2018, eq. 3."""
        if not start:
            return
        pairs = [
            (parameter.grad, parameter.detach() - start[name])
            for name, parameter in self.model.named_parameters()
            if name in start and parameter.grad is not None
        ]
        torch._foreach_add_([gradient for gradient, _ in pairs], [offset for _, offset in pairs], alpha=phase.pull)


def cuts_of(images: int, parts: int) -> list[slice]:
    """The places of each part's images in a batch; the first parts have one image more where they are not equal."""
    size, more = divmod(images, parts)
    ends = [size * part + min(part, more) for part in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def _least_images(phase: Phase) -> int:
    """The images that a part needs: a batch norm over a 1 x 1 map cannot train on one image."""
    return 2 if phase.norm == "train" else 1


def _drops(module: nn.Module) -> bool:
    """Whether a module draws at random in training: dropout or stochastic depth, by the names of timm and torch."""
    rate = getattr(module, "drop_prob", None) or getattr(module, "p", None)
    dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    return bool(rate) and (dropout or type(module).__name__ in ("DropPath", "StochasticDepth"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on an accelerator or in the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
