"""How long threads that compute wait for one another before they sleep."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zoo.system import spinning
from zoo.system.processors import usable_cpus
from zoo.system.spinning import ShortSpins

# Processor time of a process in 20 ms after each of 20 operations on several threads: that is the waiting of the others
MEASURE = """
import sys, time, torch
from zoo.system.spinning import ShortSpins
values = torch.zeros(4_000_000)

def waited():
    total = 0.0
    for _ in range(20):
        values.add_(1)
        before = time.process_time()
        time.sleep(0.02)
        total += time.process_time() - before
    return total

spins = ShortSpins(torch.get_num_threads(), int(sys.argv[1]))
found = [waited()]
spins.start()
time.sleep(0.3)
found.append(waited())
spins.stop()
time.sleep(0.3)
print(*found, waited())
"""


@pytest.mark.skipif(sys.platform != "linux" or usable_cpus() < 2, reason="needs GNU OpenMP and two threads")
def test_threads_sleep_soon_while_spins_are_short() -> None:
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}
    others = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", MEASURE, str(usable_cpus())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=others)
    before, short, after = map(float, done.stdout.split())
    assert short < before / 3 and short < after / 3


@pytest.mark.parametrize(("threads", "processors"), [(2, 2), (2, 3), (4, 16), (16, 16), (9, 10), (8, 4)])
def test_teams_have_more_threads_than_there_are_processors(threads: int, processors: int) -> None:
    teams = ShortSpins(threads, processors)._teams
    assert threads + teams * (threads - 1) > processors
    assert teams == 1 or threads + (teams - 1) * (threads - 1) <= processors


class Ended(Exception):
    pass


def _followed(monkeypatch: pytest.MonkeyPatch, loads: list[float], *, threads: int, processors: int) -> list[bool]:
    """Whether spins are short after each interval in which others kept so many processors busy."""
    found: list[bool] = []
    states: list[spinning.ShortSpins] = []
    ours: Iterator[float] = iter(loads)
    at, busy = [0.0], [0.0]

    class Noted(ShortSpins):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            states.append(self)

    def sleep(seconds: float) -> None:
        if at[0]:
            found.append(states[0].started)
        load = next(ours, None)
        if load is None:
            raise Ended
        at[0] += seconds
        busy[0] += load * seconds

    monkeypatch.setattr(spinning, "ShortSpins", Noted)
    monkeypatch.setattr(spinning, "_keep_team", lambda end: None)
    monkeypatch.setattr(spinning, "usable_cpus", lambda: processors)
    monkeypatch.setattr(spinning, "_measure", lambda: (at[0], busy[0] + 1.5 * at[0], 1.5 * at[0]))
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Ended):
        spinning._watch(threads)
    return found


def test_spins_are_short_while_others_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [0.0, 0.2, 0.5, 0.2, 0.1, 0.2, 1.0]
    assert _followed(monkeypatch, loads, threads=2, processors=2) == [False, False, True, True, False, False, True]


def test_processors_that_no_thread_needs_may_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _followed(monkeypatch, [1.0, 2.0, 2.5], threads=2, processors=4) == [False, False, True]


@pytest.mark.parametrize("name", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "another OpenMP"])
def test_one_watch_is_started_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    started: list[int] = []
    monkeypatch.setattr(spinning, "_started", False)
    monkeypatch.setattr(spinning, "_watch", lambda threads: started.append(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(spinning, "_has_gnu_openmp", lambda: name != "another OpenMP")
    for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(one, raising=False)
    if name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")
    before = set(threading.enumerate())  # a training of another test may have started a watch, which never ends
    for _ in range(2):
        spinning.spin_only_while_alone()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert started == ([3] if name is None else [])


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_gnu_openmp_is_found_where_torch_has_loaded_it() -> None:
    alone = "from zoo.system import spinning; print(spinning._has_gnu_openmp())"
    without = f"import sys, types; sys.modules['torch'] = types.ModuleType('torch'); {alone}"
    found = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for code in (alone, without)
    ]
    assert found == [str(_torch_has_libgomp()), "False"]


def _torch_has_libgomp() -> bool:
    return any((Path(torch.__file__).parent / "lib").glob("libgomp*"))


def test_a_machine_that_starts_no_more_threads_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    monkeypatch.setattr(spinning, "_started", False)
    monkeypatch.setattr(spinning, "_has_gnu_openmp", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    spinning.spin_only_while_alone()
    spins = ShortSpins(2, 2)
    spins.start()
    spins.stop()
    assert not spins.started
