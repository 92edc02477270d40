"""Inputs of a network, and outputs of its frozen prefix, for any images and views.

The outputs are computed or read from the store; both give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from zoo.data.augmentation import PLAIN, BadView, Drawing, draw_views, image_key, make_view
from zoo.data.decoding import MEMORY_BUDGET, DecodedImages
from zoo.data.sample_columns import ids_of
from zoo.errors import ZooError
from zoo.feature_cache.earlier_rows import EarlierImages, EarlierRows
from zoo.feature_cache.engine import TORCH, BlockCompute
from zoo.feature_cache.engine_choice import RunEngine
from zoo.feature_cache.row_pool import RowPool, row_key
from zoo.feature_cache.shard_entries import KeptRows
from zoo.feature_cache.split_network import Rows, SplitNetwork, block_size, padded, prefix_in_blocks
from zoo.networks.inputs import inputs_of
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.storage.claim import claim
from zoo.storage.mapped_memory import PageBudget
from zoo.storage.tensor_store import Store, digest_of_texts
from zoo.system.accelerator import capabilities

# Largest size in bytes and images of a shard, which is one entry of the store. Large shards are written efficiently; a
# small one is quickly computed again if it is lost
SHARD, SHARD_IMAGES = 32 * 2**20, 1024

Indices = npt.NDArray[np.int64]


class InputSource(Protocol):
    """The images of one part of the data, as inputs of a network."""

    part: DecodedImages

    @property
    def by_name(self) -> bool:
        """Whether an image's inputs depend on its name, from which random views are drawn."""
        ...

    def inputs(self, indices: Indices, views: Sequence[int]) -> torch.Tensor:
        """Inputs `(N, 3, H, W)` of images, each at its view: normalised float32, channels last, on the device."""
        ...

    def key(self, indices: Indices, view: int) -> dict[str, Any]:
        """JSON values that identify the inputs of these images at a view, besides the images' contents."""
        ...

    def key_of(self, names: Sequence[str], view: int) -> dict[str, Any]:
        """As `key`, for any images, by their ids."""
        ...


class AugmentedViews:
    """Random views of the training images. Each is drawn with a seed of its own, made from the image and the view.

    Attributes:
        drawing: Seconds spent on drawing views so far.
    """

    def __init__(
        self, part: DecodedImages, policy: Drawing, seed: int, preprocess: Preprocess, place: torch.device
    ) -> None:
        self.part = part
        self.policy = policy
        self.seed = seed
        self.preprocess = preprocess
        self.place = place
        self.drawing = 0.0
        self._view = make_view(policy, preprocess.crop, preprocess.fill)
        self.keys = np.fromiter(map(image_key, ids_of(part.samples)), np.uint64, len(part.samples))
        self._pages = PageBudget(part.pixels, MEMORY_BUDGET)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocess.mean).mul(255).reshape(shape).to(place)
        self._scale = torch.tensor(preprocess.std).mul(255).reciprocal().reshape(shape).to(place)

    def plain(self) -> AugmentedViews:
        """The same images without augmentation: every view is the centre crop."""
        return AugmentedViews(self.part, PLAIN, self.seed, self.preprocess, self.place)

    def inputs(self, indices: Indices, views: Sequence[int]) -> torch.Tensor:
        started = perf_counter()
        asked = list(zip(self.keys[indices].tolist(), views))
        chosen = torch.from_numpy(self.part.pixels[indices]).permute(0, 3, 1, 2)  # N x 3 x H x W, uint8
        self._pages.touched(len(indices))
        if capabilities(self.place).pins:  # random numbers are drawn on the CPU, pixels are moved by the GPU
            chosen = chosen.pin_memory().to(self.place, non_blocking=True)
        try:
            drawn = draw_views(chosen, asked, self._view, self.seed)
        except BadView as error:
            name = self.part.samples[int(indices[error.place])].id
            raise ZooError(
                f"augmentation `{self.policy.text}` {error} for image `{name}`",
                hint="pass another `--augment`; if it is a plugin's, it must be mended",
            ) from error
        self.drawing += perf_counter() - started
        return self.normalised(drawn)

    def normalised(self, views: torch.Tensor) -> torch.Tensor:
        """Views `(N, 3, H, W)` uint8 to normalised float32 on the device, channels last."""
        moved = views.to(self.place, torch.float32)
        return moved.sub_(self._mean).mul_(self._scale).contiguous(memory_format=torch.channels_last)

    @property
    def by_name(self) -> bool:
        return self.policy.random

    def key(self, indices: Indices, view: int) -> dict[str, Any]:
        return self._key(self.keys[indices], view)

    def key_of(self, names: Sequence[str], view: int) -> dict[str, Any]:
        return self._key(np.fromiter(map(image_key, names), np.uint64, len(names)), view)

    def _key(self, names: npt.NDArray[np.uint64], view: int) -> dict[str, Any]:
        found: dict[str, Any] = {"preprocess": self.preprocess.to_json(), **self.policy.key}
        if self.policy.random:  # the seed of a view comes from the image's name
            found |= {"view": view, "seed": self.seed, "names": digest_of_texts(map(str, names.tolist()))}
        return found


class EvaluationCrops:
    """Images as they are evaluated: centre crops, the same at every view."""

    def __init__(self, part: DecodedImages, preprocess: Preprocess, place: torch.device) -> None:
        self.part = part
        self.preprocess = preprocess
        self.place = place
        self._pages = PageBudget(part.pixels, MEMORY_BUDGET)

    @property
    def by_name(self) -> bool:
        return False

    def inputs(self, indices: Indices, views: Sequence[int]) -> torch.Tensor:
        self._pages.touched(len(indices))
        return inputs_of(self.part.pixels[indices], self.preprocess, self.place)

    def key(self, indices: Indices, view: int) -> dict[str, Any]:
        return self.key_of((), view)

    def key_of(self, names: Sequence[str], view: int) -> dict[str, Any]:
        return {"preprocess": self.preprocess.to_json(), "augment": "evaluation"}


@dataclass
class Seconds:
    """Seconds spent so far on computing the prefix, and on reading and writing the store."""

    prefix: float = 0.0
    store: float = 0.0


class PrefixOutputs:
    """Outputs of a split network's prefix for the images of a source, as rows.

    The prefix is computed in blocks of a fixed size. With a store, the rows of a view are computed for all images when
    the view is first prepared, and stored. Without a store, or once it fails, `take` computes the rows that are asked
    for.

    Attributes:
        spent: Seconds spent so far.
        engine: What computes the rows. None: torch.
        begin: Share of the rows of a view, 0 to 1, that others begin with: processes that share a store begin at
            different ones, and read what the others have computed.
        read: Number of images whose rows were read from the store so far.
        computed: Number of images whose rows were computed so far.
        kept: Rows of all images that are kept by shard. None: there are none.
    """

    def __init__(
        self,
        split: SplitNetwork,
        source: InputSource,
        *,
        store: Store | None,
        key: Mapping[str, Any],
        batch_size: int,
        progress: Progress,
        title: str,
        pool: RowPool | None = None,
        engine: RunEngine | None = None,
        earlier: Sequence[EarlierImages] = (),
        begin: float = 0.0,
        kept: KeptRows | None = None,
    ) -> None:
        self.split = split
        self.kept = kept
        self.begin = begin
        self.source = source
        self.engine = engine
        self.store = store
        self.pool = pool
        self.block = block_size(batch_size, capabilities(split.place).block)
        self.progress = progress
        self.title = title
        self.spent = Seconds()
        self.read = self.computed = 0
        self._shards: dict[int, list[Rows]] = {}  # view -> shards
        self._compute_block: BlockCompute | None = None  # None: torch
        self._opened = False
        self._earlier = earlier
        per = min(SHARD_IMAGES, max(SHARD // max(split.bytes, 1), 1))
        self.per_shard = max(per // self.block, 1) * self.block
        stored = store is not None or pool is not None
        self._base = {**key, "block": self.block, "prefix": split.digest()} if stored else {}
        if engine is not None and len(source.part.labels):
            engine.choose(split, self.block, self._sample)

    @property
    def by_torch(self) -> bool:
        """Whether torch computes the rows, and no other engine."""
        return self.engine is None or self.engine.choice is None or self.engine.name(self.split) == TORCH

    @property
    def _key(self) -> dict[str, Any]:
        return {**self._base, "engine": TORCH if self.by_torch else self.engine.key(self.split)}  # type: ignore[union-attr]

    def torch_rows(self, indices: Indices, views: Sequence[int]) -> Rows:
        """The rows of images as torch computes them, in the same blocks; they are not kept."""
        inputs = self.source.inputs(indices, views)
        return prefix_in_blocks(self.split, inputs, self.block)

    def _sample(self) -> torch.Tensor:
        """A block of the first images, to compare an engine with torch on."""
        indices = np.arange(min(self.block, len(self.source.part.labels)))
        return padded(self.source.inputs(indices, [0] * len(indices)), self.block)

    def _open_engine(self) -> bool:
        """Open the engine, if it is not open yet; whether torch takes its place, so that rows have another key."""
        if self.by_torch or self._opened:
            return False
        assert self.engine is not None
        self._compute_block = self.engine.compute(self.split, self.block, self._sample)
        self._opened = True
        return self._compute_block is None

    def prepare(self, view: int) -> None:
        """Store the rows of a view for all images, unless they are stored already. Without a store nothing happens."""
        if self.kept is not None or view in self._shards or (self.store is None and self.pool is None):
            return
        count = len(self.source.part.labels)
        shards: dict[int, Rows] = {}
        shown = False
        earlier: EarlierRows | None = None
        starts = list(range(0, count, self.per_shard))
        first = int(self.begin * len(starts))
        for done, start in enumerate(starts[first:] + starts[:first]):
            indices = np.arange(start, min(start + self.per_shard, count))
            key = self._key | {
                "images": digest_of_texts(self.source.part.contents[int(index)] for index in indices),
                "pixels": self.source.key(indices, view),
            }
            rows = self._read_rows(key, len(indices)) if self.store is not None else None
            if rows is None and self.pool is None and self.store is not None and self.store.failure is not None:
                self.store = None  # it is only read, and has not all of them
                return
            if rows is None and self._open_engine():
                self._shards.clear()
                self.prepare(view)
                return
            if rows is None:
                with claim(self.store, key, self._note_waiting):  # another process may have computed them meanwhile
                    if self.store is not None and self.store.has(key):
                        rows = self._read_rows(key, len(indices))
                    if rows is None and self.pool is not None:
                        rows = self._pooled(indices, view, self.pool)
                        if self.store is not None:
                            rows = self._write_rows(key, rows) or rows
                    if rows is None and self._earlier and self.store is not None:
                        earlier = self._earlier_rows(view) if earlier is None else earlier
                        rows = self._with_earlier(indices, view, earlier)
                        if rows is not None:
                            rows = self._write_rows(key, rows) or rows
                    if rows is None:
                        if not shown:
                            self.progress.start(self.title, count)
                            self.progress.advance(done * self.per_shard)
                            shown = True
                        computed = self._compute(indices, [view] * len(indices), self.progress.advance)
                        rows = self._write_rows(key, computed)
                if rows is None:
                    assert self.store is not None
                    self.progress.warn(
                        f"{self.store.failure}: the frozen prefix is computed again in every epoch; "
                        "the result is the same"
                    )
                    self.store = None
                    return
            elif shown:
                self.progress.advance(len(indices))
            shards[start] = rows
        self._shards[view] = [shards[start] for start in starts]

    def _note_waiting(self) -> None:
        self.progress.note(f"another process computes the {self.title}; this one waits for it")

    def _pooled(self, indices: Indices, view: int, pool: RowPool) -> Rows:
        """Rows of images at a view, computed for those alone that are not in the pool, and added to it."""
        contents = self.source.part.contents
        names = [row_key(self._key, contents[one], self.source.key(np.array([one]), view)) for one in indices]
        missing = [place for place, name in enumerate(names) if pool.find(name) is None]
        found = {name: row for name in names if (row := pool.find(name)) is not None}
        if missing:
            self.progress.start(self.title, len(missing))
            some = indices[missing]
            computed = self._compute(some, [view] * len(some), self.progress.advance)
            for place, row in enumerate(zip(*(part.cpu() for part in computed))):
                name = names[missing[place]]
                pool.add(name, row)
                found[name] = row
        self.read += len(indices) - len(missing)
        return tuple(torch.stack([found[name][number] for name in names]) for number in range(len(self.split.boundary)))

    def _earlier_rows(self, view: int) -> EarlierRows:
        """The rows of a view that the run which this one goes on from has stored."""

        def read(shard: EarlierImages) -> Rows | None:
            pixels = self.source.key_of(shard.names, view)
            key = self._key | {"images": digest_of_texts(shard.contents), "pixels": pixels}
            return self._read_rows(key, len(shard.names))

        before = self.read
        found = EarlierRows(read, self._earlier, self.per_shard, by_name=self.source.by_name)
        self.read = before  # counted where they are used
        return found

    def _with_earlier(self, indices: Indices, view: int, earlier: EarlierRows) -> Rows | None:
        """Rows of images, computed for those that are not among the earlier ones; None: all are to be computed."""
        part = self.source.part
        ids = ids_of([part.samples[int(index)] for index in indices])
        images = [(name, part.contents[int(index)]) for name, index in zip(ids, indices)]
        places = earlier.missing(images)
        if len(places) == len(images):
            return None
        computed = None
        if len(places):
            self.progress.start(self.title, len(places))
            computed = self._compute(indices[places], [view] * len(places), self.progress.advance)
        self.read += len(images) - len(places)
        return earlier.rows(images, computed)

    def take(self, indices: Indices, views: Sequence[int]) -> Rows:
        """The rows of images, each at its view, on the device."""
        if self.kept is not None:
            started = perf_counter()
            taken = tuple(row.to(self.split.place) for row in self.kept.take(indices))
            self.spent.store += perf_counter() - started
            self.read += len(indices)
            return taken
        if any(view not in self._shards for view in views):
            return self._compute(indices, views)
        started = perf_counter()
        rows = tuple(torch.empty((len(indices), *tensor.shape), dtype=tensor.dtype) for tensor in self.split.boundary)
        wanted = np.asarray(views)
        for view in dict.fromkeys(views):
            shards = self._shards[view]
            for number in np.unique(indices[wanted == view] // self.per_shard).tolist():
                mine = np.flatnonzero((wanted == view) & (indices // self.per_shard == number))
                here = torch.from_numpy(indices[mine] % self.per_shard)
                for row, kept in zip(rows, shards[number]):
                    row[torch.from_numpy(mine)] = kept[here]
        rows = tuple(row.to(self.split.place) for row in rows)
        self.spent.store += perf_counter() - started
        return rows

    def _compute(
        self, indices: Indices, views: Sequence[int], advance: Callable[[int], None] = lambda count: None
    ) -> Rows:
        parts = []
        self._open_engine()
        for start in range(0, len(indices), self.block):
            part = slice(start, start + self.block)
            inputs = self.source.inputs(indices[part], views[part])
            started = perf_counter()
            parts.append(prefix_in_blocks(self.split, inputs, self.block, self._compute_block))
            self.spent.prefix += perf_counter() - started
            advance(len(inputs))
        self.computed += len(indices)
        return tuple(torch.cat(rows) for rows in zip(*parts)) if len(parts) > 1 else parts[0]

    def _read_rows(self, key: Mapping[str, Any], count: int) -> Rows | None:
        assert self.store is not None
        started = perf_counter()
        found = self.store.read(key)
        self.spent.store += perf_counter() - started
        if found is None:
            return None
        boundary = self.split.boundary
        rows = tuple(found.get(str(number), torch.empty(0)) for number in range(len(boundary)))
        if any(row.shape != (count, *one.shape) or row.dtype != one.dtype for row, one in zip(rows, boundary)):
            return None
        self.read += count
        return rows

    def _write_rows(self, key: Mapping[str, Any], rows: Rows) -> Rows | None:
        """Store rows; returns them, memory-mapped where possible, or None if the store has failed."""
        assert self.store is not None
        started = perf_counter()
        kept = self.store.write(key, {str(number): row.cpu().contiguous() for number, row in enumerate(rows)})
        self.spent.store += perf_counter() - started
        if kept is None:  # another process may have evicted the entry at once: these rows stay in memory
            return rows if self.store.failure is None else None
        return tuple(kept[str(number)] for number in range(len(rows)))


def default_views(epochs: int) -> int:
    """Default number of views of an image in a phase with a frozen prefix: the rounded square root of its epochs.

    The cost of the prefix then grows more slowly than the number of epochs: 2 views for 5 epochs, 4 for 20, 10 for 100.
    """
    return max(1, round(math.sqrt(epochs)))
