"""The cost model: whether keeping a frozen prefix pays, from what a few images took, and what it will come to."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from time import perf_counter

from zoo.experiment import Cache
from zoo.feature_cache.split_network import Cut
from zoo.storage.tensor_store import Store, size_text

# Bytes that the store's folder is tried with
PROBE = 4 * 2**20

# To write a value and read it back may cost this share of computing it; measured on few images, so with a margin
WORTH = 0.5


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a phase's prefix is kept, and why, in one line."""

    keep: bool
    text: str


def judge_prefix(cut: Cut, asked: Cache, store: Store, *, images: int, views: int, epochs: int, what: str) -> Verdict:
    """Decide for `images` that a phase shows `epochs` times in `views` views; 0 epochs: it is solved in one pass.

    It decides on time alone: kept or not, the numbers that come out are the same.
    """
    size = images * views * cut.bytes
    once, again = cut.seconds * images * views, cut.seconds * images * max(epochs, 1)
    text = f"{what}: {views} view{'s' if views > 1 else ''} of {images:,} images, {size_text(size)}"
    if asked == "off":
        return Verdict(keep=False, text=f"{text}, computed in every epoch (`--cache off`)")
    if store.folder is None:
        return Verdict(keep=False, text=f"{text}, computed in every epoch: there is no cache folder (set ZOO_CACHE)")
    budget = store.budget
    took = _seconds_per_byte(store) * cut.bytes if store.failure is None and size <= budget else 0.0
    if store.failure is not None:
        return Verdict(keep=False, text=f"{text}, computed in every epoch: {store.failure}")
    if size > budget:
        return Verdict(
            keep=False, text=f"{text}, computed in every epoch: over the store's budget of {size_text(budget)}"
        )
    if asked == "auto" and took > WORTH * cut.seconds:
        return Verdict(keep=False, text=f"{text}, computed in every epoch: that is as fast as to keep it")
    gain = f", about {_text(once)} in place of {_text(again)}" if epochs > views else ""
    return Verdict(keep=True, text=f"{text}, computed once and kept{gain}")


def _text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else "a second"


def _seconds_per_byte(store: Store) -> float:
    """To write into the store's folder and read it back; infinite where it cannot be written."""
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
