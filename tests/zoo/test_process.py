"""The process: memory that is freed stays at hand, and numbers too small to matter are zero."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from zoo.process import prepare_process
if {prepare}:
    prepare_process()
    prepare_process()
def touch():
    torch.empty(16 * 2**20).fill_(1.0)  # 64 MiB: 16,384 pages
for _ in range(3):
    touch()  # the heap grows to its size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(torch.tensor([1e-40]) * 1.0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is what is set")
def test_pages_are_made_once_and_tiny_numbers_are_zero() -> None:
    found = []
    for prepare in (False, True):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(prepare=prepare)], capture_output=True, text=True)
        faults, tiny = done.stdout.split()
        found.append((int(faults), float(tiny)))
    (usual, kept_tiny), (prepared, tiny) = found
    assert prepared * 4 < usual and kept_tiny > 0 == tiny
