"""The feature cache of one run: splits its network where the frozen part ends, and decides which outputs to keep."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.data.decoding import DecodedImages
from zoo.experiment import Cache
from zoo.feature_cache.check_memory import CheckMemory
from zoo.feature_cache.earlier_rows import EarlierImages
from zoo.feature_cache.engine_choice import RunEngine
from zoo.feature_cache.loader import EvaluationCrops, InputSource, PrefixOutputs
from zoo.feature_cache.policy import decide_caching
from zoo.feature_cache.row_pool import RowPool
from zoo.feature_cache.shard_entries import KeptRows
from zoo.feature_cache.split_network import SplitNetwork, block_size
from zoo.networks.tracing import LARGE_BATCH, eval_mode, noise
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.storage.cache import source_key
from zoo.storage.tensor_store import Store
from zoo.system.accelerator import capabilities, name_of
from zoo.system.device import Device
from zoo.system.environment import machine, versions

# Source files that pixels and rows depend on: if one changes, older entries of the store are not used
CODE = (
    "zoo.data.augmentation",
    "zoo.data.decode_plan",
    "zoo.data.grey_levels",
    "zoo.data.image",
    "zoo.data.image_file",
    "zoo.feature_cache.engine",
    "zoo.feature_cache.loader",
    "zoo.feature_cache.split_network",
    "zoo.networks.batchnorm_folding",
    "zoo.networks.inputs",
    "zoo.networks.tracing",
    "zoo.preprocess",
)


class FeatureCache:
    """Splits networks for one run, and keeps outputs of their frozen prefixes in a store.

    Args:
        asked: the setting `--cache`.
        batch_size: of training, from which the size of blocks follows.
        backbone: qualified name, part of the key of an entry.
        store: None where nothing is kept.
        pool: rows that runs of the same process share; None where there are no other runs.
        engine: what computes prefixes; None: torch.
        earlier: images of the run that this one goes on from, whose stored rows are read.
        begin: see `zoo.feature_cache.loader.PrefixOutputs`.
        kept: parts of the data whose rows are kept by shard, with these rows.
    """

    def __init__(
        self,
        *,
        asked: Cache,
        batch_size: int,
        preprocess: Preprocess,
        device: Device,
        progress: Progress,
        backbone: str = "",
        store: Store | None = None,
        pool: RowPool | None = None,
        engine: RunEngine | None = None,
        earlier: Sequence[EarlierImages] = (),
        begin: float = 0.0,
        kept: Sequence[tuple[DecodedImages, KeptRows]] = (),
    ) -> None:
        self.engine = engine
        self.kept = kept
        self.begin = begin
        self.earlier = earlier
        self.pool = pool if asked != "off" else None
        self.asked = asked
        self.batch_size = batch_size
        self.preprocess = preprocess
        self.device = device
        self.progress = progress
        self.backbone = backbone
        self.store = store
        self._noted: set[str] = set()
        self._last: tuple[Any, SplitNetwork] | None = None  # a solved phase trains and evaluates with the same split

    def split(self, network: Network, trainable: Collection[str], *, evaluate: bool = False) -> SplitNetwork | None:
        """The network, split before everything that depends on the parameters `trainable`.

        For training, modules keep the modes that they are in. To `evaluate`, they are in eval mode and compute in fp32.
        Returns None where the network cannot be split, which a note reports, or where nothing is frozen.
        """
        first = network.anatomy.stages[0].parameters
        if not trainable or not first or set(first) & set(trainable):
            if self.asked == "on" and not evaluate:
                self._note_once(
                    "`--cache on`: no layer is frozen before the trainable ones, so there is nothing to keep"
                )
            return None
        try:
            if not evaluate:
                return self._split(network.model, trainable, self.device.autocast)
            with eval_mode(network.model):
                return self._split(network.model, trainable, None)
        except ValueError as error:
            self._note_once(
                f"`{network.anatomy.backbone}` cannot be split, so its frozen part is computed in every epoch: {error}"
            )
            return None

    def _split(self, model: nn.Module, trainable: Collection[str], autocast: torch.dtype | None) -> SplitNetwork:
        asked = (id(model), frozenset(trainable), autocast, tuple(module.training for module in model.modules()))
        if self._last is None or self._last[0] != asked or not self._last[1].unchanged():
            images = noise(LARGE_BATCH, self.preprocess.crop, self.device.place)
            memory = None if self.store is None or self.asked == "off" else CheckMemory(self.store, self._key(autocast))
            self._last = asked, SplitNetwork(model, trainable, images, autocast, memory)
        return self._last[1]

    def outputs(
        self, split: SplitNetwork, source: InputSource, *, epochs: int, views: int, title: str
    ) -> PrefixOutputs:
        """Outputs of the prefix for the images of a source. They are stored if that saves time; a note says so.

        Args:
            split: The network.
            source: The images.
            epochs: Epochs that the outputs are used in; 0 where they are used once.
            views: Number of views of each image.
            title: Name of the outputs in notes and progress bars.
        """
        store = None
        if (kept := self._kept(split, source)) is not None:
            self._note_once(f"{title}: {len(kept):,} images, kept by shard, so that none is computed")
        elif self.store is not None:
            images = len(source.part.labels)
            decision = decide_caching(
                split, self.asked, self.store, images=images, views=views, epochs=epochs, what=title
            )
            self._note_once(decision.text)
            store = self.store if decision.keep else None
        return self._outputs(split, source, store, title)

    def evaluation_outputs(
        self, network: Network, trainable: Collection[str], part: DecodedImages
    ) -> PrefixOutputs | None:
        """Outputs of the prefix for images that are evaluated; None where the network cannot be split."""
        split = self.split(network, trainable, evaluate=True)
        if split is None:
            return None
        store = self.store if self.asked != "off" else None
        if store is not None and store.failure is None and split.bytes * len(part.labels) > store.budget:
            store = None
        source = EvaluationCrops(part, self.preprocess, self.device.place)
        return self._outputs(split, source, store, "frozen prefix for evaluation")

    def stored_outputs(self, split: SplitNetwork, source: InputSource, title: str) -> PrefixOutputs:
        """Outputs of the prefix for images of any source, in eval mode; they are kept wherever there is a store."""
        return self._outputs(split, source, self.store if self.asked != "off" else None, title)

    def _outputs(self, split: SplitNetwork, source: InputSource, store: Store | None, title: str) -> PrefixOutputs:
        kept = self._kept(split, source)
        return PrefixOutputs(
            split,
            source,
            store=store if kept is None else None,
            kept=kept,
            key=self._key(split.autocast),
            batch_size=self.batch_size,
            progress=self.progress,
            title=title,
            pool=self.pool,
            engine=self.engine,
            earlier=self.earlier,
            begin=self.begin,
        )

    def shard_key(self, split: SplitNetwork, pixels: Mapping[str, Any], engine: str) -> dict[str, Any]:
        """What the rows of a shard's images depend on, whichever machine computes them.

        Unlike the keys of other entries it leaves out threads and processor, which change the last bits, so that a
        cluster may compute what one machine trains from; an entry says what computed it.

        Args:
            split: The network.
            pixels: See `InputSource.key`.
            engine: See `zoo.feature_cache.engine_choice.RunEngine.key`.
        """
        known = self._key(split.autocast)
        return {
            **{name: value for name, value in known.items() if name not in ("kind", "threads", "processor")},
            "device": self.device.place.type,
            "block": block_size(self.batch_size, capabilities(split.place).block),
            "prefix": split.graph_digest(),
            "pixels": dict(pixels),
            "engine": engine,
        }

    def _kept(self, split: SplitNetwork, source: InputSource) -> KeptRows | None:
        """The rows of a source's images that are kept by shard, if they are what this network gives."""
        rows = next((rows for part, rows in self.kept if part is source.part), None)
        if rows is None or source.by_name:
            return None
        same = self.shard_key(split, source.key_of((), 0), str(rows.key["engine"]))
        return rows if same == rows.key else None

    def _key(self, autocast: torch.dtype | None) -> dict[str, Any]:
        """What the bits of a row depend on besides weights, graph and pixels."""
        place = self.device.place
        return {
            "kind": "prefix",
            "code": source_key(*(Path(str(import_module(name).__file__)) for name in CODE)),
            "backbone": self.backbone,
            "precision": str(autocast),
            "device": name_of(place) if place.type != "cpu" else "cpu",
            "threads": torch.get_num_threads(),
            "processor": [machine()["processor"], torch.backends.cpu.get_cpu_capability(), platform.machine()],
            "versions": {name: version for name, version in versions().items() if name != "backbone-zoo"},
        }

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.progress.note(text)
