"""Python's garbage collector: seldom while a process starts, then as usual."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from zoo.system.garbage import SELDOM, collect_as_usual, collect_seldom


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()


def test_it_is_seldom_until_it_is_as_usual() -> None:
    collect_seldom()
    assert gc.get_threshold()[0] == SELDOM
    collect_as_usual()
    assert gc.get_threshold()[0] == 700 and gc.get_freeze_count() > 1000


def test_a_program_s_own_setting_is_left_alone() -> None:
    gc.set_threshold(123, 4, 5)
    collect_as_usual()
    assert gc.get_threshold() == (123, 4, 5)
