"""Shards of features: found again by the contents of their images, also after a pass that was killed."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests_support import TINY, Killed

from zoo import Plugins, Sample, train
from zoo.data.decoding import DecodedImages
from zoo.feature_cache import loader
from zoo.feature_cache.loader import EvaluationCrops, PrefixOutputs
from zoo.feature_cache.manager import FeatureCache
from zoo.progress import Silent
from zoo.storage.tensor_store import Store
from zoo.training.setup import build, resolve

IMAGES, PER_SHARD = 80, 16


def images(count: int = IMAGES) -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), np.uint8)
    samples = tuple(Sample(f"{index}.jpg", "a", pixels[index]) for index in range(count))
    contents = tuple(f"{index:064x}" for index in range(count))
    return DecodedImages(samples, np.zeros(count, np.int64), pixels, "", contents)


def outputs(part: DecodedImages, folder: Path | None) -> PrefixOutputs:
    """Of the same network each time, in a store or without one."""
    setup = resolve(TINY, Plugins())
    torch.manual_seed(0)
    network = build(setup, TINY, 2)
    cache = FeatureCache(
        asked="on",
        batch_size=PER_SHARD,
        preprocess=setup.preprocess,
        device=setup.device,
        progress=Silent(),
        store=None if folder is None else Store(folder),
    )
    split = cache.split(network, set(network.anatomy.head.parameters), evaluate=True)
    assert split is not None
    return cache.stored_outputs(split, EvaluationCrops(part, setup.preprocess, setup.device.place), "features")


def test_a_killed_pass_keeps_the_shards_that_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SHARD_IMAGES", PER_SHARD)
    part = images()
    killed = outputs(part, tmp_path)
    compute, calls = killed._compute, []

    def until_killed(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise Killed
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(killed, "_compute", until_killed)
    with pytest.raises(Killed):
        killed.prepare(0)
    again = outputs(part, tmp_path)
    again.prepare(0)
    assert (again.read, again.computed) == (3 * PER_SHARD, IMAGES - 3 * PER_SHARD)
    order = np.random.default_rng(1).permutation(IMAGES)
    fresh = outputs(part, None)
    for kept, computed in zip(again.take(order, [0] * IMAGES), fresh.take(np.arange(IMAGES), [0] * IMAGES)):
        assert torch.equal(kept, computed[torch.from_numpy(order)])


def test_a_full_store_changes_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SHARD_IMAGES", PER_SHARD)
    part, every = images(), np.arange(IMAGES)
    full = outputs(part, tmp_path)
    assert full.store is not None
    full.store.requested_budget = 20_000  # bytes: some shards
    full.prepare(0)
    assert full.store is None
    fresh = outputs(part, None)
    for kept, computed in zip(full.take(every, [0] * IMAGES), fresh.take(every, [0] * IMAGES)):
        assert torch.equal(kept, computed)


def test_a_store_that_is_read_only_is_read(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that are there are not computed again; of others, one line says why they are not kept."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    asked = replace(TINY, data=str(two_splits), strategy="linear,solver=sgd", cache="on", epochs=2, engine="torch")
    first = train(asked, out=tmp_path / "first", plugins=plugins)

    def read_only(make: Any) -> Any:
        def made(*arguments: Any, **named: Any) -> Any:
            if str(named.get("dir", "")).startswith(str(tmp_path / "cache")):
                raise OSError(errno.EROFS, "Read-only file system")
            return make(*arguments, **named)

        return made

    for name in ("TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, read_only(getattr(tempfile, name)))
    computed: list[int] = []
    compute = PrefixOutputs._compute

    def counting(self: PrefixOutputs, indices: Any, *rest: Any) -> Any:
        computed.append(len(indices))
        return compute(self, indices, *rest)

    monkeypatch.setattr(PrefixOutputs, "_compute", counting)
    said: list[str] = []

    class Said(Silent):
        def note(self, text: str) -> None:
            said.append(text)

        def warn(self, text: str) -> None:
            said.append(text)

    again = train(asked, out=tmp_path / "second", plugins=plugins, progress=Said())
    assert not computed and again.record["weights_sha256"] == first.record["weights_sha256"]
    assert len([one for one in said if "Read-only file system" in one]) == 1
    said.clear()
    train(replace(asked, image_size=40), out=tmp_path / "third", plugins=plugins, progress=Said())
    assert computed and len([one for one in said if "Read-only file system" in one]) == 1
