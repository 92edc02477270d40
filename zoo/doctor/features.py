"""Features of surveyed images from a backbone with published weights, kept in the feature cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zoo.backbone import is_at_hand
from zoo.config.context import Context
from zoo.data.decoding import DecodedImages
from zoo.dataset import Role
from zoo.experiment import Experiment
from zoo.plugin import Plugins

if TYPE_CHECKING:
    from zoo.training.setup import Setup

PREFERRED = ("efficientnet_lite0",)  # comes by pip, and is quick; then any other, the cheapest first
BATCH = 32


@dataclass(frozen=True)
class FeatureNetwork:
    """The backbone that features are computed with."""

    experiment: Experiment
    setup: Setup


def default_backbone(plugins: Plugins) -> str | None:
    """A backbone whose weights are on this machine, the preferred or else the cheapest one; None: there is none."""
    entries = list(plugins.backbones)
    for entry in sorted(entries, key=lambda one: one.name not in PREFERRED):
        if entry.name not in PREFERRED:
            break
        if entry.value.weights and is_at_hand(entry.value, entry.value.weights[0]):
            return entry.qualified
    for entry in sorted(entries, key=lambda one: (one.value.gflops is None, one.value.gflops or 0.0)):
        if entry.value.weights and is_at_hand(entry.value, entry.value.weights[0]):
            return entry.qualified
    return None


def feature_network(backbone: str, weights: str, data: str, device: str, plugins: Plugins) -> FeatureNetwork:
    """Look up a backbone and its weights.

    Raises:
        UsageError: there is no such backbone, or it has no such weights.
        ZooError: the device is not available.
    """
    from zoo.training.setup import resolve

    experiment = Experiment(data=data, backbone=backbone, strategy="linear", weights=weights, device=device)
    return FeatureNetwork(experiment, resolve(experiment, plugins))


def image_features(
    network: FeatureNetwork, parts: dict[Role, DecodedImages], classes: int, context: Context
) -> npt.NDArray[np.float32]:
    """The head's input `(N, D)` for the images of all splits. A training run on the same data finds them kept.

    Raises:
        UsageError: the backbone has no head that takes one vector for each image.
        ZooError: its weights are not available.
    """
    import torch

    from zoo.data.augmentation import PLAIN
    from zoo.feature_cache.engine_choice import RunEngine, Work
    from zoo.feature_cache.loader import AugmentedViews
    from zoo.feature_cache.manager import FeatureCache
    from zoo.training.features import cached_features, features
    from zoo.training.optimizer import changed_by
    from zoo.training.setup import build, plan_phases

    experiment, setup = network.experiment, network.setup
    torch.manual_seed(experiment.seed)
    built = build(setup, experiment, max(classes, 2))
    built.model.to(setup.device.place).to(memory_format=torch.channels_last).eval()
    phase = plan_phases(setup, built, experiment).phases[0]
    cache = FeatureCache(
        asked="auto",
        batch_size=experiment.batch_size,
        preprocess=setup.preprocess,
        device=setup.device,
        progress=context.progress,
        backbone=setup.backbone.qualified,
        store=context.store,
        engine=RunEngine(
            experiment.engine,
            plugins=context.plugins,
            progress=context.progress,
            store=context.store,
            work=Work(images=sum(len(part.samples) for part in parts.values())),
        ),
    )
    found: list[npt.NDArray[np.float32]] = []
    for role, part in parts.items():
        if not part.samples:
            continue
        views = AugmentedViews(part, PLAIN, 0, setup.preprocess, setup.device.place)
        cached = cached_features(built, changed_by(built, phase), views, cache, f"features of {role}")
        if cached is not None:
            found.append(cached[0])
            continue
        context.progress.start(f"features of {role}", len(part.samples))
        batches = (
            views.inputs(np.arange(start, min(start + BATCH, len(part.samples))), [0] * BATCH)
            for start in range(0, len(part.samples), BATCH)
        )
        found.append(features(built, batches))
    context.progress.stop()
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
