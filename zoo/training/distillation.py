"""Distillation: a finished run teaches another one its probabilities, on the same views of the training images.

Hinton et al. 2015, "Distilling the knowledge in a neural network". Teacher and student see the same view of an image,
as in Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.data.class_names import keys
from zoo.errors import UsageError, ZooError
from zoo.feature_cache.loader import AugmentedViews
from zoo.networks.predictor import full_precision
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess, height_width
from zoo.progress import Progress
from zoo.runs.run import Run
from zoo.runs.source_run import SourceRun, open_source
from zoo.storage.paths import user_path
from zoo.strategy import Phase

# Images of one pass of the teacher. The passes of a view are always the same, so that its logits are the same bits in a
# run that was resumed
BLOCK = 32
# Bytes of the teacher's logits that are kept, of all views together
MOST_KEPT = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A finished run that teaches.

    Attributes:
        source: The run, and the digest of its weights.
        rows: Index of its logit for each class of the student.
    """

    source: SourceRun
    rows: tuple[int, ...]

    @property
    def run(self) -> Run:
        """The run."""
        return self.source.run

    def to_json(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return {
            **self.source.to_json(),
            "backbone": self.run.record["backbone"],
            "strategy": self.run.record["strategy"],
        }


def open_teachers(phases: Sequence[Phase], classes: Sequence[str]) -> dict[str, Teacher]:
    """The teachers that phases name by `distill=`, by that text.

    Raises:
        UsageError: one is not a run, or has other classes.
        ZooError: one is not finished, or is several networks; its weights are missing or were changed.
    """
    names = dict.fromkeys(phase.distill for phase in phases if phase.distill is not None)
    return {name: _open_teacher(name, classes) for name in names}


def _open_teacher(name: str, classes: Sequence[str]) -> Teacher:
    folder = user_path(name)
    if not folder.is_dir():
        raise UsageError(
            f"`distill={name}`: there is no run `{folder}`",
            hint="it takes the folder that `zoo train` made, without `+` and `,` in its path",
        )
    run = Run.open(folder)
    try:
        source = open_source(run)
    except ZooError as error:
        raise type(error)(f"`distill={name}`: {error.message}", hint=error.hint) from error
    theirs, ours = keys(run.classes), keys(classes)
    only = sorted(set(theirs) ^ set(ours))
    if only:
        owner = "the teacher" if only[0] in theirs else "the data"
        raise UsageError(
            f"`distill={name}`: the teacher has other classes than the data: only {owner} has `{only[0]}`",
            hint="a teacher must have been trained on the same classes; their order does not matter",
        )
    return Teacher(source=source, rows=tuple(theirs.index(key) for key in ours))


def check_teachers(run: Run, teachers: Mapping[str, Teacher]) -> None:
    """Check that the teachers of a stopped run have the weights that it began with.

    Raises:
        ZooError: one has others.
    """
    recorded = run.record.get("teachers") or {}
    for name, teacher in teachers.items():
        if not teacher.source.has_weights_of(recorded.get(name, {})):
            raise ZooError(
                f"`distill={name}`: the weights of the teacher have changed since run `{run.path}` began",
                hint="restore the teacher's folder, or start a new run with `zoo train`",
            )


class TaughtViews:
    """Logits of a teacher for views of the training images, computed once for each view."""

    def __init__(self, teacher: Teacher, views: AugmentedViews, plugins: Plugins, progress: Progress) -> None:
        """Load the teacher's network.

        Raises:
            UsageError: the plugin of its backbone or strategy is not installed.
            ZooError: its weights do not fit.
        """
        self._views, self._progress = views, progress
        network: Network = teacher.run.load_network(plugins)
        self._model: nn.Module = network.model.to(views.place).requires_grad_(False).eval()
        self._rows = torch.tensor(teacher.rows, device=views.place)
        self._convert = _Conversion(views.preprocess, teacher.run.preprocess, views.place)
        self._kept: dict[int, torch.Tensor] = {}
        self._title = f"teacher {teacher.run.path.name}"

    def prepare(self, view: int) -> None:
        """Compute the teacher's logits of a view for all training images, if they are not there."""
        if view in self._kept:
            return
        count = len(self._views.part.labels)
        self._progress.start(self._title, count)
        found = []
        with torch.inference_mode(), full_precision():
            for start in range(0, count, BLOCK):
                indices = np.arange(start, min(start + BLOCK, count))
                images = self._convert(self._views.inputs(indices, [view] * len(indices)))
                found.append(self._model(images).float().index_select(1, self._rows).cpu())
                self._progress.advance(len(indices))
        self._progress.stop()
        logits = torch.cat(found).clone()
        size = logits.numel() * logits.element_size()
        while self._kept and (len(self._kept) + 1) * size > MOST_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[view] = logits

    def rows(self, indices: npt.NDArray[np.int64], views: Sequence[int]) -> torch.Tensor:
        """Logits `(len(indices), classes)` of images, each in its view, on the CPU."""
        found: torch.Tensor | None = None
        asked = np.asarray(views)
        for view in dict.fromkeys(views):
            self.prepare(view)
            where = torch.from_numpy(np.flatnonzero(asked == view))
            logits = self._kept[view]
            if found is None:
                found = torch.empty((len(indices), logits.shape[1]))
            found[where] = logits[torch.from_numpy(indices[asked == view])]
        assert found is not None
        return found


class _Conversion:
    """From the student's input to the teacher's: normalised as the teacher's images are, and of their size."""

    def __init__(self, ours: Preprocess, theirs: Preprocess, place: torch.device) -> None:
        shape = (1, 3, 1, 1)
        scale = [one / other for one, other in zip(ours.std, theirs.std)]
        shift = [(one - other) / spread for one, other, spread in zip(ours.mean, theirs.mean, theirs.std)]
        self._same = all(one == 1 for one in scale) and not any(shift)
        self._scale = torch.tensor(scale).reshape(shape).to(place)
        self._shift = torch.tensor(shift).reshape(shape).to(place)
        size = height_width(theirs.crop)
        self._size = None if size == height_width(ours.crop) else size

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if not self._same:
            images = images * self._scale + self._shift
        if self._size is not None:
            images = nn.functional.interpolate(images, self._size, mode="bilinear", antialias=True, align_corners=False)
        return images


def taught_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """The summed divergence of softened probabilities `(N, classes)`, times the temperature squared (section 2.1).

    The square makes the gradient as large as that of the labels, whatever the temperature.
    """
    return temperature**2 * nn.functional.kl_div(
        (logits / temperature).log_softmax(1),
        (taught / temperature).log_softmax(1),
        reduction="sum",
        log_target=True,
    )
