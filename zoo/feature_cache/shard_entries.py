"""Shard entries: what the store keeps of the images of one shard for one use, found by the shard's digest.

An entry knows its images by their offsets in the shard. If other images of the shard are asked for, as with another
split seed, those that it lacks are computed and added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.data.digest_column import SIZE, Digests
from zoo.data.sample_columns import Ranges
from zoo.data.shards import Shard
from zoo.feature_cache.split_network import Rows
from zoo.storage.files import json_text
from zoo.storage.tensor_store import Store

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """Images of one shard, for one use.

    Attributes:
        offsets: `(N,)`, ascending; they identify the images.
        contents: `(N, 32)` uint8, SHA-256 of each; zeros where an image cannot be used.
        rows: Outputs of the frozen prefix, `(N, ...)` each; zeros where an image cannot be used. Empty: of images that
            are only checked.
        bad: Why images cannot be used, by offset.
        doubtful: What is wrong with images that are used nevertheless, by offset.
        made: What computed the rows: engine, threads and processor, once each.
    """

    offsets: Indices
    contents: npt.NDArray[np.uint8]
    rows: Rows
    bad: Mapping[int, str]
    doubtful: Mapping[int, str]
    made: Sequence[Mapping[str, Any]]

    def places(self, offsets: Indices) -> Indices:
        """The index of each image; -1: it is not here."""
        if not len(self.offsets):
            return np.full(len(offsets), -1, np.int64)
        found = np.minimum(np.searchsorted(self.offsets, offsets), len(self.offsets) - 1)
        return np.where(self.offsets[found] == offsets, found, -1)

    def missing(self, ranges: Ranges) -> Ranges:
        """The images that are not here."""
        lack = self.places(ranges.offsets) < 0
        return Ranges(ranges.offsets[lack], ranges.sizes[lack])


def key_of(use: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """The key of an entry: what its rows depend on, and the SHA-256 of the shard."""
    return {**use, "kind": "shard", "shard": digest}


def read_entry(store: Store, key: Mapping[str, Any]) -> ShardEntry | None:
    """An entry, its rows memory-mapped; None where there is none, or it is damaged."""
    found = store.read(key)
    if found is None:
        return None
    try:
        notes = json.loads(bytes(found["notes"].numpy()))
        offsets, contents = found["offsets"].numpy(), found["contents"].numpy()
        rows = tuple(found[str(number)] for number in range(len(found) - 3))
        if contents.shape != (len(offsets), SIZE) or any(len(row) != len(offsets) for row in rows):
            return None
        bad, doubtful = ({int(at): str(text) for at, text in notes[name].items()} for name in ("bad", "doubtful"))
        return ShardEntry(
            offsets=offsets, contents=contents, rows=rows, bad=bad, doubtful=doubtful, made=tuple(notes["made"])
        )
    except (KeyError, ValueError, TypeError, AttributeError):  # an entry of another version of this code
        return None


def write_entry(store: Store, key: Mapping[str, Any], entry: ShardEntry) -> bool:
    """Keep an entry; whether it could be kept. `Store.failure` says why it could not."""
    notes = {"bad": entry.bad, "doubtful": entry.doubtful, "made": list(entry.made)}
    tensors = {
        "offsets": torch.from_numpy(entry.offsets),
        "contents": torch.from_numpy(entry.contents),
        "notes": torch.frombuffer(bytearray(json_text(notes, ascii_only=True).encode()), dtype=torch.uint8),
        **{str(number): row for number, row in enumerate(entry.rows)},
    }
    return store.write(key, tensors) is not None


def merged(parts: Sequence[ShardEntry]) -> ShardEntry:
    """The images of several entries of one shard, each of which has others."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.concatenate([one.offsets for one in parts])
    order = np.argsort(offsets, kind="stable")
    made = [each for one in parts for each in one.made]
    return ShardEntry(
        offsets=offsets[order],
        contents=np.concatenate([one.contents for one in parts])[order],
        rows=tuple(torch.cat(rows)[torch.from_numpy(order)] for rows in zip(*(one.rows for one in parts))),
        bad={at: text for one in parts for at, text in one.bad.items()},
        doubtful={at: text for one in parts for at, text in one.doubtful.items()},
        made=[each for number, each in enumerate(made) if each not in made[:number]],
    )


class KeptRows:
    """Rows of images that lie in entries of many shards, read where they are.

    Attributes:
        key: What the rows depend on, see `FeatureCache.shard_key`.
    """

    def __init__(
        self, key: Mapping[str, Any], rows: Sequence[Rows], shards: npt.NDArray[np.int32], at: npt.NDArray[Any]
    ) -> None:
        """Take the rows of each shard, and the shard of each image with its row there."""
        self.key = key
        self._rows, self._shards, self._at = rows, shards, at.astype(np.int32, copy=False)

    def __len__(self) -> int:
        return len(self._shards)

    def some(self, indices: Indices) -> KeptRows:
        """The rows of some of the images."""
        return KeptRows(self.key, self._rows, self._shards[indices], self._at[indices])

    def take(self, indices: Indices) -> Rows:
        """The rows of images, copied into memory."""
        shards, places = self._shards[indices], self._at[indices]
        found = tuple(torch.empty((len(indices), *row.shape[1:]), dtype=row.dtype) for row in self._rows[0])
        order = np.argsort(shards, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            if not len(part):
                continue
            mine, there = torch.from_numpy(part), torch.from_numpy(places[part].astype(np.int64))
            for row, kept in zip(found, self._rows[shards[part[0]]]):
                row[mine] = kept[there]
        return found


@dataclass(frozen=True, kw_only=True)
class KeptImages:
    """What is kept of the images of one role.

    Attributes:
        contents: SHA-256 of each.
        bad: Why images cannot be used, by index.
        doubtful: What is wrong with images that are used nevertheless, by index.
        rows: Their rows; None: they are only checked.
        made: What computed the rows.
    """

    contents: Digests
    bad: dict[int, str]
    doubtful: dict[int, str]
    rows: KeptRows | None
    made: Sequence[Mapping[str, Any]]


def images_of(
    use: Mapping[str, Any], shards: Sequence[Shard], digests: Mapping[str, str], store: Store
) -> KeptImages | list[str]:
    """What is kept of the images of one role; or the shards of which an image, or all, are missing.

    Args:
        use: What rows depend on.
        shards: The images.
        digests: SHA-256 of each shard, by file.
        store: Where entries are.
    """
    count = sum(len(shard.indices) for shard in shards)
    contents = np.zeros((count, SIZE), np.uint8)
    numbers, at = np.zeros(count, np.int32), np.zeros(count, np.int64)
    bad: dict[int, str] = {}
    doubtful: dict[int, str] = {}
    rows: list[Rows] = []
    made: list[Mapping[str, Any]] = []
    missing = []
    for shard in shards:
        entry = read_entry(store, key_of(use, digests[shard.file]))
        places = np.zeros(0) if entry is None else entry.places(shard.ranges.offsets)
        if entry is None or (places < 0).any():
            missing.append(shard.file)
            continue
        contents[shard.indices] = entry.contents[places]
        numbers[shard.indices], at[shard.indices] = len(rows), places
        index = dict(zip(shard.ranges.offsets.tolist(), shard.indices.tolist())) if entry.bad or entry.doubtful else {}
        bad |= {index[offset]: text for offset, text in entry.bad.items() if offset in index}
        doubtful |= {index[offset]: text for offset, text in entry.doubtful.items() if offset in index}
        rows.append(entry.rows)
        made += [one for one in entry.made if one not in made]
    if missing:
        return missing
    kept = KeptRows(use, rows, numbers, at) if rows and rows[0] else None
    return KeptImages(contents=Digests(contents), bad=bad, doubtful=doubtful, rows=kept, made=made)
