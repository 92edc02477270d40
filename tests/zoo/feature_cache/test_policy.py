"""The cost model: a prefix is kept when that saves time within the budget, and the line says which."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import zoo.feature_cache.policy
from zoo.feature_cache.policy import CacheDecision, decide_caching
from zoo.storage.tensor_store import Store


def judge(
    tmp_path: Path, asked: Any = "auto", *, seconds: float = 0.01, budget: int = 2**30, views: int = 2, epochs: int = 5
) -> CacheDecision:
    cut: Any = SimpleNamespace(bytes=2**20, seconds=seconds)  # of one image
    store = Store(tmp_path / "store", budget=budget)
    return decide_caching(cut, asked, store, images=100, views=views, epochs=epochs, what="prefix")


@pytest.fixture(autouse=True)
def one_megabyte_takes_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.feature_cache.policy, "_seconds_per_byte", lambda store: 1e-3 / 2**20)


@pytest.mark.parametrize(("seconds", "kept"), [(0.01, True), (0.0021, True), (0.0019, False), (0.0001, False)])
def test_it_is_kept_where_computing_takes_twice_as_long_as_keeping(tmp_path: Path, seconds: float, kept: bool) -> None:
    assert judge(tmp_path, seconds=seconds).keep is kept
    assert judge(tmp_path, "on", seconds=seconds).keep and not judge(tmp_path, "off", seconds=seconds).keep


def test_the_budget_holds_all_views_or_none(tmp_path: Path) -> None:
    assert judge(tmp_path, budget=200 * 2**20).keep
    for asked in ("auto", "on"):
        verdict = judge(tmp_path, asked, budget=200 * 2**20 - 1)
        assert not verdict.keep and "over the store's budget of 200 MiB" in verdict.text
    assert judge(tmp_path, budget=100 * 2**20, views=1).keep


def test_the_line_says_what_it_comes_to(tmp_path: Path) -> None:
    assert judge(tmp_path).text == (
        "prefix: 2 views of 100 images, 200 MiB, computed once and kept, about 2 s in place of 5 s"
    )
    assert judge(tmp_path, views=1, epochs=0).text == "prefix: 1 view of 100 images, 100 MiB, computed once and kept"
    assert judge(tmp_path, "off").text.endswith("computed in every epoch (`--cache off`)")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "store").write_text("no folder")
    verdict = judge(tmp_path)
    assert not verdict.keep and "cannot be written" in verdict.text


def test_a_folder_that_cannot_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.disk_usage", refused)
    verdict = judge(tmp_path, "on")
    assert not verdict.keep and verdict.text.endswith("cannot be used: permission denied")
