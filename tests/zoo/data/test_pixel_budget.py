"""Memory that a process keeps after it has freed it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks of 20 MB are freed, which lets glibc keep blocks of up to 20 MB; then one of 10 MB is held below a small one
PROGRAM = """
import ctypes, sys
from zoo.data.pixel_budget import KEPT, keep_little_memory

if sys.argv[1] == "little":
    keep_little_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096


def used(size):
    place = library.malloc(size)
    ctypes.memset(place, 1, size)
    return place


library.free(used(20 * KEPT))
before = resident()
large = used(10 * KEPT)
held = used(64)  # lies above it, so that the heap cannot shrink
library.free(large)
print((resident() - before) / KEPT)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux with glibc")
def test_freed_blocks_go_back_to_the_system() -> None:
    kept = {}
    for how in ("usual", "little"):
        told = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        kept[how] = float(told.stdout)
    assert kept["little"] < 1 < 9 < kept["usual"]
