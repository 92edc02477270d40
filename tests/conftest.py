"""Fixtures: small folders of real image files, loaded plugins, and a finished run.

Fixtures of session scope are read-only: a test that changes one takes a copy. At the end of the session each is
compared with its initial state (`shared.py`).
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from shared import made_once, unchanged
from tests_support import TINY, make_photos

from zoo.plugin import Plugins

# How long an example takes depends on the machine and on what it imports first
hypothesis.settings.register_profile("zoo", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None)  # of `make test-slow`
hypothesis.settings.load_profile("zoo")

# A third party's own tests are run where it is installed: test_third_party.py
collect_ignore = ["packages"]

# Tests run side by side, one process a core; torch's threads would only wait for one another. Subprocesses inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Imports make millions of objects that live to the end; looking through them again and again is a sixth of the time
gc.disable()

# Rich wraps tables to the terminal's width; tests read whole lines
os.environ.setdefault("COLUMNS", "200")


def pytest_collection_finish() -> None:
    """All modules are imported: what there is now is set aside, and the collector runs for what tests make."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """train/ and val/ of two classes: what is reported may not be chosen on."""
    counts = {"train": 12, "val": 6}
    yield from made_once(tmp_path_factory.getbasetemp(), "two-splits", lambda folder: make_photos(folder, counts))


@pytest.fixture(scope="session")
def three_splits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """train/, val/ and test/ of two classes."""
    counts = {"train": 12, "val": 4, "test": 5}
    yield from made_once(tmp_path_factory.getbasetemp(), "three-splits", lambda folder: make_photos(folder, counts))


@pytest.fixture(scope="session")
def plugins() -> Iterator[Plugins]:
    """What is installed, loaded once. A test that registers something makes `Plugins` of its own."""
    yield from unchanged(Plugins())


@pytest.fixture(scope="session")
def small_plugins() -> Iterator[Plugins]:
    """What is installed, and the networks of `small_backbones.py`."""
    from small_backbones import small_plugins

    yield from unchanged(small_plugins())


@pytest.fixture(scope="session")
def exported_run(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Path]:
    """The folder of a finished run of four epochs, with its `model.onnx`. Scoring it is a change: its ledger grows."""
    from zoo import export, train

    def make(folder: Path) -> None:
        experiment = replace(TINY, data=str(two_splits), strategy="full", epochs=4)
        export(train(experiment, out=folder / "run", plugins=plugins), plugins=plugins)

    for folder in made_once(tmp_path_factory.getbasetemp(), "exported-run", make):
        yield folder / "run"


@pytest.fixture(scope="session", autouse=True)
def one_precision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`precision="auto"` is fp32 on every CPU.

    Where a processor has bf16, a trial of some milliseconds decides, which beside other tests comes out differently
    from one time to the next. Subprocesses read the answer in the cache.
    """
    import torch

    from zoo.system import device

    decide = device.has_fast_bf16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_bf16_pays", lambda: False)
        patch.setenv("ZOO_CACHE", str(_cache(tmp_path_factory)))
        assert not decide(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "has_fast_bf16", lambda place: place.type == "cuda" and decide(place))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_other_load() -> Iterator[None]:
    """Neither training nor a study minds the load that other tests are."""
    from zoo.studies import deployment_cost, runner
    from zoo.training import load_watch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_watch, "MOST_OTHERS", math.inf)
        patch.setattr(runner, "MOST_OTHERS", math.inf)
        patch.setattr(deployment_cost, "BUSY", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No power cut ends a test, so nothing waits until a file has reached the disk, which others may keep busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share one cache of catalogue rows and leave the user's alone; what other tests looked at is forgotten."""
    monkeypatch.setenv("ZOO_CACHE", str(_cache(tmp_path_factory)))
    (_cache(tmp_path_factory) / "looks.jsonl").unlink(missing_ok=True)


def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "zoo-cache"
