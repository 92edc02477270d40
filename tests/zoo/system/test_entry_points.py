"""Installed entry points: what is remembered equals what is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from zoo.storage.cache import write_memo
from zoo.system import entry_points
from zoo.system.entry_points import InstalledPoint, installed_points


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of `sys.path`, with one distribution in it."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    install(tmp_path / "site", "one", "a = zoo.errors")
    return tmp_path / "site"


def install(site: Path, name: str, *points: str, version: str = "1.0") -> None:
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text("\n".join(["[some.group]", *points, "[other]", "x = y"]) + "\n")


def values() -> list[tuple[str, str]]:
    return sorted((point.distribution, point.value) for point in installed_points("some.group"))


def test_nothing_is_read_again_while_nothing_has_changed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = installed_points("some.group")
    assert first == [InstalledPoint("a", "zoo.errors", "some.group", "one", "1.0")]

    def read(group: str) -> list[InstalledPoint]:
        raise AssertionError(group)

    monkeypatch.setattr(entry_points, "_read_points", read)
    assert installed_points("some.group") == first
    monkeypatch.setattr(sys, "path", ["", "/nowhere", *sys.path])  # as of a script in another folder
    assert installed_points("some.group") == first


def test_changes_are_seen(site: Path) -> None:
    assert values() == [("one", "zoo.errors")]
    install(site, "two", "b = zoo.target:load_target")
    assert values() == [("one", "zoo.errors"), ("two", "zoo.target:load_target")]
    install(site, "two", "b = zoo.catalogue")  # in place
    assert values() == [("one", "zoo.errors"), ("two", "zoo.catalogue")]
    install(site, "two", "b = zoo.catalogux")  # in place, of the same size
    os.utime(site / "two-1.0.dist-info" / "entry_points.txt", (1, 1))
    assert values() == [("one", "zoo.errors"), ("two", "zoo.catalogux")]
    install(site, "two", "b = zoo.catalogue")
    for file in (site / "one-1.0.dist-info").iterdir():
        file.unlink()
    assert values() == [("two", "zoo.catalogue")]


def test_with_an_archive_on_the_path_nothing_is_remembered(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules.zip").write_bytes(b"PK")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules.zip"), *sys.path])
    assert entry_points._distributions_key() is None
    assert values() == [("one", "zoo.errors")]


@pytest.mark.parametrize("kept", [None, 3, [["a"]], [["a", "b", "some.group", "one", 1]]])
def test_a_damaged_memory_is_read_again(site: Path, kept: object) -> None:
    key = entry_points._distributions_key()
    assert key is not None
    write_memo("some.group", key, kept)
    assert values() == [("one", "zoo.errors")]


def test_other_finders_of_distributions_are_asked_each_time(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, *_: object) -> None: ...
        def find_distributions(self, *_: object) -> list[object]:
            return []

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert entry_points._distributions_key() is None
    assert values() == [("one", "zoo.errors")]


@pytest.mark.parametrize(
    ("value", "name"),
    [("zoo.errors", "zoo.errors"), ("zoo.errors:ZooError", "ZooError"), ("zoo.errors [x]", "zoo.errors")],
)
def test_what_a_point_names_is_loaded(value: str, name: str) -> None:
    assert InstalledPoint("a", value, "some.group", "one", "1.0").load().__name__ == name
