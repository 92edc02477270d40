"""Caching policy: whether it saves time to keep the outputs of a frozen prefix, and what it will cost."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from time import perf_counter

from zoo.experiment import Cache
from zoo.feature_cache.split_network import SplitNetwork
from zoo.storage.tensor_store import Store, size_text

# Bytes written and read to measure the speed of the store's folder
PROBE = 4 * 2**20

# Writing and reading a value may take at most this share of the time to compute it. Both are measured on little data,
# hence the margin
WORTH = 0.5


@dataclass(frozen=True, kw_only=True)
class CacheDecision:
    """Whether the outputs of a phase's prefix are kept, or read where they are (`keep`); why, for the user (`text`)."""

    keep: bool
    text: str


def decide_caching(
    split: SplitNetwork, asked: Cache, store: Store, *, images: int, views: int, epochs: int, what: str
) -> CacheDecision:
    """Decide whether a phase keeps the outputs of its prefix. Only time depends on the decision, never results.

    Args:
        split: The split network, with the measured time of its prefix.
        asked: The setting `--cache`.
        store: Where the outputs would be kept.
        images: Number of images.
        views: Number of views of each image.
        epochs: Number of epochs of the phase; 0 if it is solved in one pass.
        what: Name of the outputs in the line.
    """
    size = images * views * split.bytes
    once, again = split.seconds * images * views, split.seconds * images * max(epochs, 1)
    text = f"{what}: {views} view{'s' if views > 1 else ''} of {images:,} images, {size_text(size)}"
    every = f"{text}, computed in every epoch"
    if asked == "off":
        return CacheDecision(keep=False, text=f"{every} (`--cache off`)")
    if store.folder is None:
        return CacheDecision(keep=False, text=f"{every}: there is no cache folder (set ZOO_CACHE)")
    budget = store.budget
    took = _seconds_per_byte(store) * split.bytes if store.failure is None and size <= budget else 0.0
    if store.failure is not None and store.usage().entries:
        return CacheDecision(
            keep=True,
            text=f"{text}, read from the store if they are there, else computed in every epoch: {store.failure}",
        )
    if store.failure is not None:
        return CacheDecision(keep=False, text=f"{every}: {store.failure}")
    if size > budget:
        return CacheDecision(keep=False, text=f"{every}: over the store's budget of {size_text(budget)}")
    if asked == "auto" and took > WORTH * split.seconds:
        return CacheDecision(keep=False, text=f"{every}: computing is as fast as reading it back")
    gain = f", about {_seconds_text(once)} in place of {_seconds_text(again)}" if epochs > views else ""
    return CacheDecision(keep=True, text=f"{text}, computed once and kept{gain}")


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else "a second"


def _seconds_per_byte(store: Store) -> float:
    """Seconds to write a byte into the store's folder and to read it back; infinite if the folder cannot be written."""
    assert store.folder is not None
    data = os.urandom(PROBE)
    started = perf_counter()
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store.folder) as file:
            file.write(data)
            file.flush()
            file.seek(0)
            file.read()
    except OSError as error:
        store.failure = f"`{store.folder}` cannot be written: {error.strerror}"
        return float("inf")
    return (perf_counter() - started) / PROBE
