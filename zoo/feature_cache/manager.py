"""The cutter: cuts a run's network where its frozen part ends, and decides what of that part is kept."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.data.decoding import Scanned
from zoo.experiment import Experiment
from zoo.feature_cache.loader import Crops, PrefixRows, Source
from zoo.feature_cache.policy import judge_prefix
from zoo.feature_cache.split_network import Cut
from zoo.networks.tracing import MORE, eval_mode, noise
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.storage.cache import source_key
from zoo.storage.tensor_store import Store
from zoo.system.device import Device
from zoo.system.environment import machine, versions

# What makes pixels and rows: another version of it finds nothing that this one kept
CODE = (
    "zoo.data.augmentation",
    "zoo.data.image",
    "zoo.feature_cache.loader",
    "zoo.feature_cache.split_network",
    "zoo.networks.batchnorm_folding",
    "zoo.networks.tracing",
    "zoo.preprocess",
)


class Cutter:
    """Cuts networks for one run. Without a `store` nothing is kept."""

    def __init__(
        self,
        experiment: Experiment,
        preprocess: Preprocess,
        device: Device,
        progress: Progress,
        *,
        backbone: str = "",
        store: Store | None = None,
    ) -> None:
        self.experiment = experiment
        self.preprocess = preprocess
        self.device = device
        self.progress = progress
        self.backbone = backbone
        self.store = store
        self._told: set[str] = set()
        self._last: tuple[Any, Cut] | None = None  # a solved phase trains and scores with one and the same

    def cut(self, network: Network, late: Collection[str], *, evaluate: bool = False) -> Cut | None:
        """A cut before all that depends on `late`; None where nothing is frozen before it, or no cut can be.

        To train, the network is taken in the modes that it is in; to `evaluate`, in eval mode and fp32.
        """
        first = network.anatomy.stages[0].parameters
        if not late or not first or set(first) & set(late):
            if self.experiment.cache == "on" and not evaluate:
                self._tell("`--cache on`: nothing is frozen before what trains, so there is nothing to keep")
            return None
        try:
            if not evaluate:
                return self._cut(network.model, late, self.device.autocast)
            with eval_mode(network.model):
                return self._cut(network.model, late, None)
        except ValueError as error:
            self._tell(f"`{network.anatomy.backbone}` cannot be cut, so what is frozen is computed again: {error}")
            return None

    def _cut(self, model: nn.Module, late: Collection[str], autocast: torch.dtype | None) -> Cut:
        asked = (id(model), frozenset(late), autocast, tuple(module.training for module in model.modules()))
        if self._last is None or self._last[0] != asked or not self._last[1].still_holds():
            self._last = asked, Cut(model, late, noise(MORE, self.preprocess.crop, self.device.place), autocast)
        return self._last[1]

    def rows(self, cut: Cut, source: Source, *, epochs: int, views: int, title: str) -> PrefixRows:
        """Rows of the images of a source, kept if that pays; one line says so. `epochs` is 0 for a single pass."""
        store = None
        if self.store is not None:
            images = len(source.part.labels)
            verdict = judge_prefix(
                cut, self.experiment.cache, self.store, images=images, views=views, epochs=epochs, what=title
            )
            self._tell(verdict.text)
            store = self.store if verdict.keep else None
        return self._rows(cut, source, store, title)

    def judged(self, network: Network, late: Collection[str], part: Scanned) -> PrefixRows | None:
        """Rows of a part that is scored; None where the network is not cut."""
        cut = self.cut(network, late, evaluate=True)
        if cut is None:
            return None
        store = self.store if self.experiment.cache != "off" else None
        if store is not None and cut.bytes * len(part.labels) > store.budget:
            store = None
        return self._rows(cut, Crops(part, self.preprocess, self.device.place), store, "frozen prefix to score")

    def _rows(self, cut: Cut, source: Source, store: Store | None, title: str) -> PrefixRows:
        return PrefixRows(
            cut,
            source,
            store=store,
            key=self._key(cut),
            batch_size=self.experiment.batch_size,
            progress=self.progress,
            title=title,
        )

    def _key(self, cut: Cut) -> dict[str, Any]:
        """What the bits of a row depend on beside weights, graph and pixels."""
        place = self.device.place
        return {
            "kind": "prefix",
            "code": source_key(*(Path(str(sys.modules[name].__file__)) for name in CODE)),
            "backbone": self.backbone,
            "engine": "torch",
            "precision": str(cut.autocast),
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
            "threads": torch.get_num_threads(),
            "processor": [machine()["processor"], torch.backends.cpu.get_cpu_capability(), platform.machine()],
            "versions": {name: version for name, version in versions().items() if name != "backbone-zoo"},
        }

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.progress.note(text)
