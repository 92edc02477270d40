"""Kept features: those of a run's images that `zoo features` has computed, found again when the run is prepared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.data.decode_plan import USES
from zoo.data.decoding import DecodedImages, DecodeRequest, ImageNotes, default_workers
from zoo.data.digest_column import Digests
from zoo.data.shard_passes import may_have_features
from zoo.data.shards import FileState, Shard, digest_of_file, shards_of
from zoo.dataset import FINAL, FOLD
from zoo.errors import UsageError, counted
from zoo.experiment import Experiment
from zoo.feature_cache.engine_choice import EngineChoice
from zoo.feature_cache.shard_entries import KeptImages, KeptRows, images_of
from zoo.training.frozen_part import engine_keys, frozen_part, kept_engine
from zoo.training.setup import PlannedPhases, Setup


@dataclass(frozen=True, kw_only=True)
class KeptFeatures:
    """Features of all images of a run, as they are kept by shard.

    Attributes:
        images: What is kept, by role.
        shards: Number of shards.
        engine: What computed the features.
    """

    images: Mapping[str, KeptImages]
    shards: int
    engine: EngineChoice

    @property
    def known(self) -> dict[str, tuple[Digests, ImageNotes]]:
        """What `decode_parts` need not find out."""
        return {role: (one.contents, ImageNotes(one.bad, one.doubtful)) for role, one in self.images.items()}

    def rows_of(self, decoded: Mapping[str, DecodedImages]) -> list[tuple[DecodedImages, KeptRows]]:
        """The rows of the usable images of each role."""
        found = []
        for role, one in self.images.items():
            if one.rows is not None and role in decoded:
                usable = np.delete(np.arange(len(one.contents)), sorted(one.bad))
                found.append((decoded[role], one.rows.some(usable)))
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON values for `run.json`."""
        every = [one for images in self.images.values() for one in images.made]
        return {"shards": self.shards, "made": [one for at, one in enumerate(every) if one not in every[:at]]}


def kept_features(
    network: Network,
    planned: PlannedPhases,
    setup: Setup,
    experiment: Experiment,
    parts: Mapping[str, DecodeRequest],
    context: Context,
    began_with: EngineChoice | None = None,
) -> KeptFeatures | None:
    """The features of a run's images, if `zoo features` has computed them all; else None.

    Args:
        network: The network, which stays as it is.
        planned: Its phases.
        setup: Names and device.
        experiment: All settings.
        parts: The images, by role.
        context: Plugins, progress and store.
        began_with: The engine that a resumed run began with.

    Raises:
        ZooError: a shard cannot be read, or changes while it is.
    """
    store = context.store
    if store is None or store.folder is None or experiment.cache == "off" or not may_have_features(experiment):
        return None
    found = {role: shards_of(part.samples) for role, part in parts.items()}
    shards: dict[str, list[Shard]] = {role: one for role, one in found.items() if one is not None}
    if len(shards) < len(found) or not shards.get("fit"):
        return None
    try:
        mine = replace(network, model=copy.deepcopy(network.model))
        part = frozen_part(mine, planned, setup, experiment, context)
    except UsageError:
        return None
    engines, one_of_them = engine_keys(context.plugins), shards["fit"][0].file
    asked = experiment.engine if began_with is None else began_with.name
    name = kept_engine(part, asked, context, digest_of_file(one_of_them), engines)
    files = sorted({shard.file for one in shards.values() for shard in one})
    if name is None:
        context.progress.note(f"no features of {counted(len(files), 'shard')} are kept for these settings")
        return None
    states = {file: FileState.of(file) for file in files}
    context.progress.start("read shards", len(files), "shards")
    digests = {}
    with ThreadPoolExecutor(experiment.workers or default_workers()) as pool:
        for file, digest in zip(files, pool.map(digest_of_file, files)):
            digests[file] = digest
            context.progress.advance(1)
    images: dict[str, KeptImages] = {}
    missing: set[str] = set()
    for role, some in shards.items():
        one = images_of(part.key(USES[role], engines[name]), some, digests, store)
        if isinstance(one, KeptImages):
            images[role] = one
        else:
            missing |= set(one)
    context.progress.stop()
    for file, state in states.items():
        state.check(file)
    if missing:
        made_here = experiment.data.startswith(
            (f"{FOLD}:", f"{FINAL}:")
        )  # of folds or all images, which a pass has not
        first = "" if made_here else "; `zoo features` with the same settings computes them first"
        context.progress.note(
            f"features of {counted(len(missing), 'shard')} of {len(files):,} are not kept, so all images are decoded "
            f"here{first}"
        )
        return None
    count = sum(len(one.contents) for one in images.values())
    context.progress.note(
        f"features of {counted(count, 'image')} in {counted(len(files), 'shard')} are kept, so images are not decoded"
    )
    reason = "as the kept features were computed"
    return KeptFeatures(
        images=images,
        shards=len(files),
        engine=began_with or EngineChoice(name=name, reason=reason, images_per_second={}),
    )
