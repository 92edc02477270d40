"""Of several processes, one computes an entry."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from zoo.storage.claim import FOLDER, claim
from zoo.storage.tensor_store import Store

KEY = {"kind": "test", "number": 1}


def test_one_computes_and_the_others_find_what_it_computed(tmp_path: Path) -> None:
    computed, waited, threads = [], [], 4
    together = threading.Barrier(threads)

    def work() -> None:
        store = Store(tmp_path)
        together.wait(timeout=30)
        with claim(store, KEY, lambda: waited.append(1)):
            if store.read(KEY) is None:
                computed.append(1)
                time.sleep(0.1)  # long enough for all others to ask
                store.write(KEY, {"0": torch.ones(2)})

    all_of_them = [threading.Thread(target=work) for _ in range(threads)]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join(timeout=30)
    assert len(computed) == 1 and len(waited) == threads - 1
    assert Store(tmp_path).usage().entries == 1  # files of claims are no entries


def test_a_killed_process_gives_up_its_claim(tmp_path: Path) -> None:
    code = (
        "import os; from zoo.storage.claim import claim; from zoo.storage.tensor_store import Store\n"
        f"with claim(Store(__import__('pathlib').Path({str(tmp_path)!r})), {KEY!r}):\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    waited: list[int] = []
    with claim(Store(tmp_path), KEY, lambda: waited.append(1)):
        pass
    assert not waited


def test_nobody_waits_where_no_lock_can_be_had(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file in the way")
    inside = []
    with claim(Store(tmp_path), KEY), claim(None, KEY):
        inside.append(1)
    assert inside
