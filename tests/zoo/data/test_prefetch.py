"""Prefetching: a run finds the decoded pixels in the store; errors of the process do not affect the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import TINY

import zoo.data.decoding
from zoo import Plugins, train
from zoo.data.prefetch import Prefetch, start_prefetch
from zoo.storage.tensor_store import ROWS_SUFFIX, Store


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def finish(ahead: Prefetch | None) -> int:
    assert ahead is not None
    count: list[int] = []
    ahead.wait(count.append)
    ahead.stop()
    return sum(count)


def test_a_run_finds_what_was_decoded_ahead(two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy="linear", epochs=None)
    plain = train(replace(experiment, cache="off"), out=tmp_path / "plain")
    plugins = Plugins()
    plugins.backbones  # noqa: B018  # the catalogue, which the process ahead does not make
    assert finish(start_prefetch(experiment)) == 2 * (12 + 6)

    def refused(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(zoo.data.decoding, "decode", refused)
    ahead = start_prefetch(experiment)
    run = train(experiment, out=tmp_path / "run", ahead=ahead, plugins=plugins)
    finish(ahead)
    assert run.record["weights_sha256"] == plain.record["weights_sha256"]


def test_no_prefetch_without_a_store(two_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(TINY, data=str(two_splits))
    assert start_prefetch(replace(experiment, cache="off")) is None
    for budget in ("0", "no size"):
        monkeypatch.setenv("ZOO_CACHE_BUDGET", budget)
        assert start_prefetch(experiment) is None
    monkeypatch.setenv("ZOO_CACHE_BUDGET", "10K")
    assert finish(start_prefetch(experiment)) == 0


@pytest.mark.parametrize("wrong", [{"data": "no such folder"}, {"backbone": "no_such"}, {"strategy": "linear:x"}])
def test_errors_end_the_prefetch_process_only(two_splits: Path, wrong: dict[str, str]) -> None:
    experiment = replace(TINY, **{"data": str(two_splits), **wrong})  # type: ignore[arg-type]
    assert finish(start_prefetch(experiment)) == 0
    assert not Store().usage().entries


def test_stop_kills_the_prefetch_process(two_splits: Path) -> None:
    ahead = Prefetch(replace(TINY, data=str(two_splits)))
    ahead.stop()
    assert ahead._process.returncode is not None
    assert not list((Store().folder or Path()).glob(f"*/*{ROWS_SUFFIX}"))
