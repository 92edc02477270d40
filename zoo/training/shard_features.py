"""Features of shards: computed shard by shard, and kept in the store.

They are the outputs of the frozen part of a network whose one phase is solved, for the images that a run of the same
settings trains on, validates on and reports on; of a `test` split that it only checks, they are what is wrong with the
images. A worker computes a shard in chunks, so that its memory grows by the features of one shard and no more.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zoo.config.context import Context
from zoo.data.decode_plan import FORMS
from zoo.data.decoding import DecodedImages, DecodeRequest, decode_part, default_workers
from zoo.data.digest_column import SIZE, Digests
from zoo.data.sample_columns import Ranges, range_source
from zoo.data.shards import FileState, digest_of_file
from zoo.dataset import Sample
from zoo.errors import DiskFull, ZooError
from zoo.experiment import Experiment
from zoo.feature_cache.engine import TORCH
from zoo.feature_cache.engine_choice import EngineChoice, RunEngine, Work
from zoo.feature_cache.loader import PrefixOutputs
from zoo.feature_cache.manager import FeatureCache
from zoo.feature_cache.shard_entries import ShardEntry, key_of, merged, read_entry, write_entry
from zoo.feature_cache.split_network import Rows
from zoo.progress import Silent
from zoo.storage.claim import claim
from zoo.system.environment import machine
from zoo.system.process_memory import peak_memory, reset_peak_memory
from zoo.training.frozen_part import engine_keys, frozen_part, kept_engine, source_of
from zoo.training.setup import build, build_from, plan_phases, resolve

LOOKED_AT = 64  # images of which engines compute a block
CHUNK = 1024  # images whose pixels are in memory at a time
CLAIMS = 65_536  # files that claims share: hundreds of workers compute at a time


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

    def begin(self, file: str, ranges: Ranges | None, images: int) -> tuple[EngineChoice, int]:
        """Choose the engine for all shards, on the first images of one; also the bytes of an image's features.

        It is that of features which are kept of the shard, if there are any.

        Args:
            file: The shard.
            ranges: Its images that are trained on. None: it has none.
            images: Images in all shards.
        """
        split = self.part.splits["fit"]
        name = kept_engine(self.part, self.experiment.engine, self.context, digest_of_file(file), self._engines)
        if name is not None:
            reason = "as the kept features were computed"
            return EngineChoice(name=name, reason=reason, images_per_second={}), split.bytes
        engine = RunEngine(
            self.experiment.engine,
            plugins=self.context.plugins,
            progress=self.context.progress,
            store=self.context.store,
            work=Work(images=images),
        )
        if ranges is not None:
            some = Ranges(ranges.offsets[:LOOKED_AT], ranges.sizes[:LOOKED_AT])
            self._outputs("fit", self._decoded("fit", file, some)[0], engine)
        if engine.choice is None:
            reason = "no image was there to compare engines on"
            return EngineChoice(name=TORCH, reason=reason, images_per_second={}), split.bytes
        return engine.choice, split.bytes

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
        rows: Rows = ()
        made = []
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
        reasons, doubts = ({int(one.id): one.reason for one in notes} for notes in (bad, decoded.doubtful))
        return decoded, reasons, doubts

    def _outputs(self, use: str, part: DecodedImages, engine: RunEngine) -> PrefixOutputs:
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
            self.part.splits[use], source_of(use, part, self.setup, self.experiment), "features of shards"
        )
