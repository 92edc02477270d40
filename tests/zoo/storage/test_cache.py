"""Memos: stored, read again, and recomputed after any error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.storage.cache import cache_folder, memoise, read_memo, source_key, write_memo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def count_calls(calls: list[int], key: str = "v1") -> list[int]:
    def compute() -> list[int]:
        calls.append(1)
        return [1, 2, 3]

    return memoise("thing", key, compute, encode=list, decode=lambda kept: [int(number) for number in kept])


def test_a_value_is_computed_once(folder: Path) -> None:
    calls: list[int] = []
    assert count_calls(calls) == count_calls(calls) == [1, 2, 3]
    assert len(calls) == 1
    assert [path.name for path in folder.iterdir()] == ["thing.json"], "written beside and renamed, nothing left"


def test_another_key_computes_anew(folder: Path) -> None:
    calls: list[int] = []
    count_calls(calls, "v1")
    count_calls(calls, "v2")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe\x00",
        b"[1, 2",
        b"[]",
        b"null",
        b'{"key": "v1"}',
        b'{"key": "v1", "value": [{"a": 1}]}',
        b"[" * 9999,
    ],
)
def test_damage_costs_time_and_nothing_else(folder: Path, damage: bytes) -> None:
    calls: list[int] = []
    count_calls(calls)
    (folder / "thing.json").write_bytes(damage)
    assert count_calls(calls) == [1, 2, 3]
    assert len(calls) == 2
    assert count_calls(calls) == [1, 2, 3]
    assert len(calls) == 2, "mended"


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "below"))
    calls: list[int] = []
    assert count_calls(calls) == [1, 2, 3]
    assert read_memo("thing", "v1") is None


def test_without_a_home_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is none
    assert cache_folder() is None
    write_memo("thing", "v1", 1)
    assert read_memo("thing", "v1") is None


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/zoo")
    monkeypatch.setenv("ZOO_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_source_key_follows_the_source(tmp_path: Path) -> None:
    file = tmp_path / "rows.py"
    file.write_text("a")
    before = source_key(file)
    file.write_text("b")
    assert source_key(file) != before
