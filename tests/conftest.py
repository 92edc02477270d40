"""Fixtures: small folders of real image files, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests_support import make_photos

# A third party's own tests are run where it is installed: test_third_party.py
collect_ignore = ["packages"]

# Tests run side by side, one process a core; torch's threads would only wait for one another. Subprocesses inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Rich wraps tables to the width it believes in; tests read whole lines
os.environ.setdefault("COLUMNS", "200")


@pytest.fixture(scope="session")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of two classes: what is reported may not be chosen on."""
    return make_photos(tmp_path_factory.mktemp("two_splits"), {"train": 12, "val": 6})


@pytest.fixture(scope="session")
def three_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ of two classes."""
    return make_photos(tmp_path_factory.mktemp("three_splits"), {"train": 12, "val": 4, "test": 5})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share one cache of catalogue rows and leave the user's alone."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "zoo-cache"))
