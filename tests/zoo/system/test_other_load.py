"""How busy other programs keep the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from zoo.system import other_load
from zoo.system.other_load import OtherLoad, busy_seconds, kept_busy, own_seconds, wait_until_quiet
from zoo.system.processors import usable_cpus

SPIN = "import time\nwhile time.process_time() < 0.3: pass"


def test_processes_that_this_one_started_are_its_own() -> None:
    before = own_seconds()
    subprocess.run([sys.executable, "-c", SPIN], check=True)  # ended
    after = own_seconds()
    assert after - before >= 0.25
    with subprocess.Popen([sys.executable, "-c", SPIN + "\nprint(flush=True); input()"], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it lives and waits
        assert own_seconds() - after >= 0.25
        child.communicate(b"\n")


def test_only_processors_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity")
    whole = busy_seconds()
    some = min(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {some})
    assert usable_cpus() == 1 and 0 < busy_seconds() <= whole + 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {10_000})  # numbers that are no positions
    assert busy_seconds() >= whole


def test_only_what_computes_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that waits for a disk is free, and the time of guests is part of `user` on Linux."""
    spent = {"user": 1.0, "nice": 2, "system": 4, "irq": 8, "softirq": 16, "steal": 32}
    spent |= {"idle": 1000, "iowait": 3000, "guest": 0.5, "guest_nice": 0.5}
    one = SimpleNamespace(_asdict=lambda: spent)
    monkeypatch.setattr("zoo.system.other_load.psutil.cpu_times", lambda percpu: [one, one])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert busy_seconds() == 63.0
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert busy_seconds() == 126.0


@pytest.mark.parametrize(("busy", "own", "expected"), [(8.0, 1.0, 1.75), (4.0, 4.0, 0.0), (3.0, 4.0, 0.0)])
def test_average(monkeypatch: pytest.MonkeyPatch, busy: float, own: float, expected: float) -> None:
    """Of four seconds; what the process and its children used is no load of others."""
    at = iter([100.0, 104.0])
    total, mine = iter([50.0, 50 + busy]), iter([20.0, 20 + own])
    monkeypatch.setattr("zoo.system.other_load.time.perf_counter", lambda: next(at))
    monkeypatch.setattr(other_load, "busy_seconds", lambda: next(total))
    monkeypatch.setattr(other_load, "own_seconds", lambda: next(mine))
    assert OtherLoad().average() == pytest.approx(expected)


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    load = iter([1.5, 0.9, 0.1])
    monkeypatch.setattr("zoo.system.other_load.time.sleep", lambda seconds: None)
    monkeypatch.setattr(OtherLoad, "average", lambda self: next(load))
    assert wait_until_quiet(60.0)
    monkeypatch.setattr(OtherLoad, "average", lambda self: 1.5)
    assert not wait_until_quiet(0.01)


def test_words() -> None:
    assert kept_busy(1.26) == f"other programs kept 1.3 of {usable_cpus()} cores busy"
    assert kept_busy(1.26, here=False) == "other programs kept 1.3 cores busy"
