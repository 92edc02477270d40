"""Frozen part: a network that is solved in one phase, split before its head, and the keys of features kept by shard.

Both that compute features of shards and those that look for them ask here, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.data.augmentation import PLAIN
from zoo.data.decode_plan import FORMS, store_keys
from zoo.data.decoding import DecodedImages
from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.feature_cache.engine import COMPILED, TORCH, engines_of, version_of
from zoo.feature_cache.loader import AugmentedViews, EvaluationCrops, InputSource
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.shard_entries import key_of
from zoo.feature_cache.split_network import SplitNetwork
from zoo.networks.freezing import apply_phase
from zoo.plugin import Plugins
from zoo.progress import Silent
from zoo.training.optimizer import changed_by
from zoo.training.setup import PlannedPhases, Setup


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of a network as its one solved phase uses it.

    Attributes:
        splits: The network, split before its head, by the use of images.
        keys: What is kept depends on these, by the use of images; without the engine.
    """

    splits: Mapping[str, SplitNetwork]
    keys: Mapping[str, Mapping[str, Any]]

    def key(self, use: str, engine: str) -> dict[str, Any]:
        """What the rows of images of a use depend on, computed by an engine."""
        return {**self.keys[use], **({} if use == "checked" else {"engine": engine})}


def frozen_part(
    network: Network, planned: PlannedPhases, setup: Setup, experiment: Experiment, context: Context
) -> FrozenPart:
    """Freeze a network in place, and split it before its head.

    Raises:
        UsageError: the strategy is not one solved phase on features of a frozen network.
    """
    phases = planned.phases
    if len(phases) != 1 or phases[0].solver is None or phases[0].norm != "frozen" or network.anatomy.added:
        raise UsageError(
            f"strategy `{setup.plan}` is not solved from the features of a frozen backbone",
            hint="features of shards serve `linear` and others that `zoo list strategies` shows as solved, without "
            "settings of optimiser steps",
        )
    model = network.model.to(setup.device.place).to(memory_format=torch.channels_last)
    apply_phase(model, (), "frozen")
    model.eval()
    cache = FeatureCache(
        asked="auto",
        batch_size=experiment.batch_size,
        preprocess=setup.preprocess,
        device=setup.device,
        progress=Silent(),
        backbone=setup.backbone.qualified,
        store=context.store,
    )
    trainable, splits, keys = changed_by(network, phases[0]), {}, {}
    for use in ("fit", "evaluated"):
        split = cache.split(network, trainable, evaluate=use == "evaluated")
        if split is None or [len(tensor.shape) for tensor in split.boundary] != [1]:
            raise UsageError(
                f"`{setup.backbone.qualified}` has no one vector an image before its head",
                hint="take another backbone",
            )
        splits[use] = split
        keys[use] = cache.shard_key(split, source_of(use, _no_images(), setup, experiment).key_of((), 0), "")
    form = FORMS["checked"]((), setup.preprocess)
    keys["checked"] = {"use": "checked", **store_keys({"checked": form}, setup.preprocess)["checked"]}
    return FrozenPart(splits=splits, keys=keys)


def _no_images() -> DecodedImages:
    return DecodedImages((), np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8), "")


def source_of(use: str, part: DecodedImages, setup: Setup, experiment: Experiment) -> InputSource:
    if use == "fit":
        return AugmentedViews(part, PLAIN, experiment.seed, setup.preprocess, setup.device.place)
    return EvaluationCrops(part, setup.preprocess, setup.device.place)


def engine_keys(plugins: Plugins) -> dict[str, str]:
    """What a key says of each engine, by its name; see `RunEngine.key`."""
    others = {name: f"{name} {version_of(engine)}" for name, engine in engines_of(plugins).items()}
    return {TORCH: TORCH, COMPILED: COMPILED, **others}


def kept_engine(part: FrozenPart, asked: str, context: Context, digest: str, engines: Mapping[str, str]) -> str | None:
    """The engine that computed what is kept of a shard, if `asked` is it or `auto`; None: nothing is kept."""
    store = context.store
    if store is None:
        return None
    known = engines if asked == "auto" else {name: key for name, key in engines.items() if name == asked}
    found = (name for name, key in known.items() if store.has(key_of(part.key("fit", key), digest)))
    return next(found, None)
