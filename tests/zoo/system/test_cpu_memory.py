"""Process settings: freed memory is kept, and denormals are flushed to zero while training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.system.denormals import flush_denormals
from zoo.training.session import train

FAULTS = """
import resource, torch
from zoo.system.cpu_memory import keep_freed_memory
def touch():
    torch.empty(16 * 2**20).fill_(1.0)  # 64 MiB: 16,384 pages
def faults():
    for _ in range(12):
        touch()  # the heap grows to its size, with small blocks between the large ones
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        touch()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
keep_freed_memory()
keep_freed_memory()
print(faults())
"""


# As glibc before 2.35 does
REFUSES = """
import ctypes
known = ctypes.CDLL(None).mallopt
class Older:
    def __init__(self, name):
        self.mallopt = lambda what, value: 0 if what == -3 and value > 2**25 else known(what, value)
ctypes.CDLL = Older
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is what is set")
@pytest.mark.parametrize("before", ["", REFUSES], ids=["new", "old"])
def test_freed_memory_is_reused(before: str) -> None:
    script = FAULTS.replace("print", f"{before}\nprint", 1)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert kept * 4 < usual


def test_denormals_are_flushed_only_inside_the_block() -> None:
    tiny = torch.tensor([1e-40])
    for _ in range(2):
        with flush_denormals():
            assert float(tiny * 1.0) == 0
            with flush_denormals():
                pass
            assert float(tiny * 1.0) == 0  # as the outer one has it
        assert float(tiny * 1.0) > 0


def test_training_restores_denormals(tmp_path: Path) -> None:
    with pytest.raises(ZooError):
        train(Experiment(data=str(tmp_path / "nowhere"), backbone="resnet18", strategy="linear"))
    assert sys.float_info.min / 2 > 0
