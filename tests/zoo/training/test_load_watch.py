"""Training says when other programs keep the processors busy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import TINY

from zoo import Plugins, Run, resume, train
from zoo.progress import Silent
from zoo.system.processors import usable_cpus
from zoo.training import load_watch
from zoo.training.load_watch import EARLY, SHORTEST, LoadWatch, slack


class Said(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.advanced = 0

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def advance(self, count: int) -> None:
        self.advanced += count


class Load:
    """A load as a test wants it."""

    passed = others = 0.0

    def seconds(self) -> float:
        return self.passed

    def average(self) -> float:
        return self.others


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    one = Load()
    monkeypatch.setattr(load_watch, "OtherLoad", lambda: one)
    monkeypatch.setattr(load_watch, "MOST_OTHERS", 0.5)
    return one


def test_it_warns_once_and_early(load: Load) -> None:
    said = Said()
    watch = LoadWatch(said, usable_cpus(), elsewhere=False)
    load.others, load.passed = 1.5, EARLY - 1
    watch.advance(3)
    assert not said.warnings and said.advanced == 3
    load.passed = EARLY + 1
    watch.advance(4)
    assert said.advanced == 7
    load.passed = 100 * EARLY
    watch.advance(1)
    assert watch.finish() == 1.5
    assert said.warnings == [
        f"other programs kept 1.5 of {usable_cpus()} cores busy so far; on an idle machine training takes less time"
    ]


def test_a_load_that_comes_later_is_told(load: Load) -> None:
    said = Said()
    watch = LoadWatch(said, usable_cpus(), elsewhere=False)
    load.passed, load.others = EARLY, 0.1
    watch.advance(1)
    load.passed, load.others = 3 * EARLY, 0.9
    watch.advance(1)
    assert len(said.warnings) == 1


@pytest.mark.parametrize(("seconds", "others", "told"), [(SHORTEST, 0.6, True), (SHORTEST, 0.4, False), (1, 2, False)])
def test_at_the_end(load: Load, seconds: float, others: float, told: bool) -> None:
    """A run that is too short says nothing about the machine, but keeps the figure."""
    said = Said()
    watch = LoadWatch(said, usable_cpus(), elsewhere=False)
    load.passed, load.others = seconds, others
    assert watch.finish() == others
    assert bool(said.warnings) == told


def test_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_watch, "usable_cpus", lambda: 16)
    monkeypatch.setattr(load_watch, "MOST_OTHERS", 0.5)
    assert slack(16, elsewhere=False) == slack(20, elsewhere=False) == 0.5
    assert slack(4, elsewhere=False) == 12.5
    assert slack(16, elsewhere=True) == 8


def test_run_and_record(load: Load, two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    load.others, load.passed = 1000.25, EARLY
    said = Said()
    run = train(replace(TINY, data=str(two_splits)), out=tmp_path / "run", plugins=plugins, progress=said)
    assert len([text for text in said.warnings if "other programs" in text]) == 1 and said.advanced
    assert Run.open(run.path).record["others"] == 1000.25


def test_a_resumed_run_too(load: Load, two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    class Stops(Said):
        def epoch(self, record: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(TINY, data=str(two_splits)), out=tmp_path / "run", plugins=plugins, progress=Stops())
    load.others, load.passed = 1000.75, EARLY
    said = Said()
    assert resume(tmp_path / "run", plugins=plugins, progress=said).record["others"] == 1000.75
    assert [text for text in said.warnings if "other programs" in text]
