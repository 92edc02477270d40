"""Features of shards: computed shard by shard by whoever is asked to, and found again when a run is prepared.

They are the outputs of the frozen part of a network whose one phase is solved, for the images that a run of the same
settings trains on, validates on and reports on; of a `test` split that it only checks, they are what is wrong with the
images. A worker computes a shard in chunks, so that its memory grows by the features of one shard and no more.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from zoo.backbone import Network
from zoo.config.context import Context
from zoo.data.augmentation import PLAIN
from zoo.data.decode_plan import checked, evaluated, fitted, store_keys
from zoo.data.decoding import CHECKED, DecodedImages, DecodeRequest, ImageNotes, decode_part, default_workers
from zoo.data.digest_column import SIZE, Digests
from zoo.data.sample_columns import Ranges, range_source
from zoo.data.shards import FileState, Shard, digest_of_file, shards_of
from zoo.dataset import Sample
from zoo.errors import DiskFull, UsageError, ZooError, counted
from zoo.experiment import Experiment
from zoo.feature_cache.engine import COMPILED, TORCH, engines_of, version_of
from zoo.feature_cache.engine_choice import EngineChoice, RunEngine, Work
from zoo.feature_cache.loader import AugmentedViews, EvaluationCrops, InputSource
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.shard_entries import (
    KeptImages,
    KeptRows,
    ShardEntry,
    images_of,
    key_of,
    merged,
    read_entry,
    write_entry,
)
from zoo.feature_cache.split_network import SplitNetwork
from zoo.networks.freezing import apply_phase
from zoo.plugin import Plugins
from zoo.progress import Silent
from zoo.storage.cache import read_memo, write_memo
from zoo.storage.claim import claim
from zoo.storage.files import json_text
from zoo.system.environment import machine
from zoo.system.process_memory import peak_memory, reset_peak_memory
from zoo.training.optimizer import changed_by
from zoo.training.setup import PlannedPhases, Setup, build, build_from, plan_phases, resolve

# What images are used for, by their role; it decides how they are decoded and in which precision they are computed
USES = {"fit": "fit", "choose": "evaluated", "reported": "evaluated", CHECKED: "checked"}
FORMS = {"fit": fitted, "evaluated": evaluated, "checked": checked}

CHUNK = 1024  # images whose pixels are in memory at a time
CLAIMS = 65_536  # files that claims share: hundreds of workers compute at a time
MEMO, MOST_PASSES = "shard-passes", 200


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
        keys[use] = cache.shard_key(split, _source(use, _no_images(), setup, experiment).key_of((), 0), "")
    form = FORMS["checked"]((), setup.preprocess)
    keys["checked"] = {"use": "checked", **store_keys({"checked": form}, setup.preprocess)["checked"]}
    return FrozenPart(splits=splits, keys=keys)


def _no_images() -> DecodedImages:
    return DecodedImages((), np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8), "")


def _source(use: str, part: DecodedImages, setup: Setup, experiment: Experiment) -> InputSource:
    if use == "fit":
        return AugmentedViews(part, PLAIN, experiment.seed, setup.preprocess, setup.device.place)
    return EvaluationCrops(part, setup.preprocess, setup.device.place)


def engine_keys(plugins: Plugins) -> dict[str, str]:
    """What a key says of each engine, by its name; see `RunEngine.key`."""
    others = {name: f"{name} {version_of(engine)}" for name, engine in engines_of(plugins).items()}
    return {TORCH: TORCH, COMPILED: COMPILED, **others}


class ShardFeatures:
    """Computes the features of shards for an experiment. Its network is built once for all shards."""

    def __init__(self, experiment: Experiment, classes: Sequence[str], context: Context) -> None:
        """Build the network; no image is read.

        Raises:
            UsageError: the strategy is not solved from features, or a name is unknown.
            ZooError: the weights or the device are not available.
        """
        setup = resolve(experiment, context.plugins)
        torch.manual_seed(experiment.seed)  # as a run does, of which these are the features
        if setup.parent is None:
            network = build(setup, experiment, len(classes))
        else:
            network, _ = build_from(setup, experiment, classes)
        planned = plan_phases(setup, network, experiment)
        self.experiment, self.setup, self.context = experiment, setup, context
        self.part = frozen_part(network, planned, setup, experiment, context)
        self._engines = engine_keys(context.plugins)

    def begin(self, file: str, ranges: Ranges, images: int) -> tuple[EngineChoice, int]:
        """Choose the engine for all shards, on the first images of one; also the bytes of an image's features.

        It is that of features which are kept of the shard, if there are any.
        """
        split = self.part.splits["fit"]
        name = kept_engine(self.part, self.experiment, self.context, digest_of_file(file), self._engines)
        if name is not None:
            began = EngineChoice(name=name, reason="as the kept features were computed", images_per_second={})
        else:
            work = Work(images=images)
            engine = RunEngine(
                self.experiment.engine,
                plugins=self.context.plugins,
                progress=self.context.progress,
                store=self.context.store,
                work=work,
            )
            some = Ranges(ranges.offsets[:CHUNK], ranges.sizes[:CHUNK])
            decoded = self._decoded("fit", file, some)[0]
            if not len(decoded.labels):
                began = EngineChoice(
                    name=TORCH, reason="no image was there to compare engines on", images_per_second={}
                )
            else:
                self._outputs("fit", decoded, engine)
                assert engine.choice is not None
                began = engine.choice
        return began, split.bytes

    def compute(self, file: str, state: FileState, uses: Mapping[str, Ranges], engine: EngineChoice) -> dict[str, Any]:
        """Keep the features of one shard; those that are kept already are not computed.

        Args:
            file: The shard.
            state: Its state when its images were listed.
            uses: The images, by their use.
            engine: What computes them.

        Returns:
            JSON values: the images `computed`, those `kept` before, the `bad` ones with the reason, by offset, how many
            are `doubtful`, `seconds`, `core_seconds`, and `peak_memory` in bytes.

        Raises:
            ZooError: the shard cannot be read, or has changed since its images were listed.
            DiskFull: the store has no room.
        """
        reset_peak_memory()
        began, spent = time.perf_counter(), time.process_time()
        state.check(file)
        digest, computed, kept = digest_of_file(file), 0, 0
        bad: dict[int, str] = {}
        doubtful = 0
        for use, ranges in uses.items():
            entry, count = self._entry(use, file, state, digest, ranges, engine)
            computed, kept = computed + count, kept + len(ranges.offsets) - count
            mine = set(ranges.offsets.tolist())
            bad |= {offset: text for offset, text in entry.bad.items() if offset in mine}
            doubtful += sum(offset in mine for offset in entry.doubtful)
        return {
            "computed": computed,
            "kept": kept,
            "bad": [[offset, text] for offset, text in sorted(bad.items())],
            "doubtful": doubtful,
            "seconds": round(time.perf_counter() - began, 3),
            "core_seconds": round(time.process_time() - spent, 3),
            "peak_memory": peak_memory(),
        }

    def _entry(
        self, use: str, file: str, state: FileState, digest: str, ranges: Ranges, engine: EngineChoice
    ) -> tuple[ShardEntry, int]:
        """The entry of a shard's images of one use, and how many of them were computed now."""
        store = self.context.store
        assert store is not None
        key = key_of(self.part.key(use, self._engines[engine.name]), digest)
        entry = read_entry(store, key)
        if entry is not None and not len(entry.missing(ranges).offsets):
            return entry, 0
        del entry
        with claim(store, key, files=CLAIMS):  # another process may compute it, or have done so
            entry = read_entry(store, key)
            lack = ranges if entry is None else entry.missing(ranges)
            if not len(lack.offsets):
                assert entry is not None
                return entry, 0
            new = self._computed(use, file, lack, engine)
            state.check(file)
            entry = new if entry is None else merged([entry, new])
            if not write_entry(store, key, entry):
                why = store.failure or f"other processes fill `{store.folder}`"
                raise DiskFull(f"the features of `{file}` cannot be kept: {why}")
            return entry, len(lack.offsets)

    def _computed(self, use: str, file: str, ranges: Ranges, choice: EngineChoice) -> ShardEntry:
        parts = []
        engine = RunEngine(
            self.experiment.engine,
            plugins=self.context.plugins,
            progress=self.context.progress,
            store=self.context.store,
            work=Work(images=len(ranges.offsets)),
            began_with=choice,
        )
        for start in range(0, len(ranges.offsets), CHUNK):
            part = slice(start, start + CHUNK)
            parts.append(self._chunk(use, file, Ranges(ranges.offsets[part], ranges.sizes[part]), engine))
        if (
            use != "checked"
            and engine.choice is not None
            and engine.key(self.part.splits[use]) != self._engines[choice.name]
        ):
            raise ZooError(
                f"engine `{choice.name}`, which computes the other shards, cannot compute `{file}` on this machine",
                hint="pass `--engine torch`, which every machine has",
            )
        return merged(parts)

    def _chunk(self, use: str, file: str, ranges: Ranges, engine: RunEngine) -> ShardEntry:
        decoded, bad, doubtful = self._decoded(use, file, ranges)
        count = len(ranges.offsets)
        usable = np.array([int(offset) not in bad for offset in ranges.offsets], np.bool_)
        contents = np.zeros((count, SIZE), np.uint8)
        contents[usable] = Digests.of((bytes.fromhex(one) for one in decoded.contents), len(decoded.contents)).array
        rows, made = (), []
        if use != "checked":
            split = self.part.splits[use]
            rows = tuple(torch.zeros((count, *tensor.shape), dtype=tensor.dtype) for tensor in split.boundary)
            if usable.any():
                every = np.arange(len(decoded.labels))
                found = self._outputs(use, decoded, engine).take(every, [0] * len(every))
                for row, one in zip(rows, found):
                    row[torch.from_numpy(np.flatnonzero(usable))] = one.cpu()
            made.append(
                {
                    "engine": engine.name(split) if engine.choice is not None else TORCH,
                    "threads": torch.get_num_threads(),
                    "processor": str(machine()["processor"]),
                    "machine": platform.machine(),
                }
            )
        return ShardEntry(
            offsets=ranges.offsets.astype(np.int64), contents=contents, rows=rows, bad=bad, doubtful=doubtful, made=made
        )

    def _decoded(self, use: str, file: str, ranges: Ranges) -> tuple[DecodedImages, dict[int, str], dict[int, str]]:
        """The usable images of a part of a shard; why others cannot be used, and doubts, by offset."""
        samples = tuple(
            Sample(str(offset), "", range_source(file, str(offset), offset, size))
            for offset, size in zip(ranges.offsets.tolist(), ranges.sizes.tolist())
        )
        request: DecodeRequest = FORMS[use](samples, self.setup.preprocess)
        workers = self.experiment.workers or min(default_workers(), torch.get_num_threads())
        decoded, bad = decode_part(request, ("",), workers=workers)
        return decoded, *({int(one.id): one.reason for one in notes} for notes in (bad, decoded.doubtful))

    def _outputs(self, use: str, part: DecodedImages, engine: RunEngine) -> Any:
        """The rows of images, which are not kept here."""
        cache = FeatureCache(
            asked="off",
            batch_size=self.experiment.batch_size,
            preprocess=self.setup.preprocess,
            device=self.setup.device,
            progress=Silent(),
            backbone=self.setup.backbone.qualified,
            engine=engine,
        )
        return cache.stored_outputs(
            self.part.splits[use], _source(use, part, self.setup, self.experiment), "features of shards"
        )


def kept_engine(
    part: FrozenPart, experiment: Experiment, context: Context, digest: str, engines: Mapping[str, str]
) -> str | None:
    """The engine that computed what is kept of a shard; None: nothing is kept."""
    store = context.store
    asked = engines if experiment.engine == "auto" else {experiment.engine: engines[experiment.engine]}
    if store is None:
        return None
    found = (name for name, key in asked.items() if store.has(key_of(part.key("fit", key), digest)))
    return next(found, None)


def note_pass(experiment: Experiment) -> None:
    """Remember that features of these data by this backbone are computed by shard."""
    known = [one for one in read_memo(MEMO, "") or [] if isinstance(one, str)]
    name = _pass_name(experiment)
    if name not in known:
        write_memo(MEMO, "", [*known, name][-MOST_PASSES:])


def has_pass(experiment: Experiment) -> bool:
    """Whether `note_pass` was called for these data and this backbone."""
    return _pass_name(experiment) in (read_memo(MEMO, "") or [])


def _pass_name(experiment: Experiment) -> str:
    return hashlib.sha256(json_text([experiment.data, experiment.backbone]).encode()).hexdigest()[:16]


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
    if store is None or store.folder is None or experiment.cache == "off" or not has_pass(experiment):
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
    engines, first = engine_keys(context.plugins), shards["fit"][0].file
    if began_with is not None:
        experiment = replace(experiment, engine=began_with.name)
    name = kept_engine(part, experiment, context, digest_of_file(first), engines)
    files = sorted({shard.file for one in shards.values() for shard in one})
    if name is None:
        context.progress.note(f"no features of {counted(len(files), 'shard')} are kept for these settings")
        return None
    states = {file: FileState.of(file) for file in files}
    context.progress.start("read shards", len(files))
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
        context.progress.note(
            f"features of {counted(len(missing), 'shard')} of {len(files):,} are not kept, so all images are decoded "
            "here; `zoo features` with the same settings computes them first"
        )
        return None
    count = sum(len(one.contents) for one in images.values())
    context.progress.note(
        f"features of {counted(count, 'image')} in {counted(len(files), 'shard')} are kept: none is decoded"
    )
    reason = "as the kept features were computed"
    return KeptFeatures(
        images=images,
        shards=len(files),
        engine=began_with or EngineChoice(name=name, reason=reason, images_per_second={}),
    )
