"""Tensor store: an entry is read as it was written, or counts as missing."""

from __future__ import annotations

import errno
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from zoo import UsageError
from zoo.storage.tensor_store import SUFFIX, Store, budget_from_environment, size_text

KEY = {"what": "test", "number": 1}


def tensors(seed: int = 0, rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"0": torch.randn(rows, 3, generator=generator), "1": torch.randn(rows, generator=generator).bfloat16()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def only_file(store: Store) -> Path:
    assert store.folder is not None
    (file,) = store.folder.glob(f"*/*{SUFFIX}")
    return file


def same(found: dict[str, torch.Tensor] | None, wanted: dict[str, torch.Tensor]) -> bool:
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)
    )


def test_an_entry_is_read_by_its_key(store: Store, tmp_path: Path) -> None:
    assert store.read(KEY) is None
    assert same(store.write(KEY, tensors()), tensors())
    assert same(Store(tmp_path / "store").read({"number": 1, "what": "test"}), tensors())
    assert store.read({**KEY, "number": 2}) is None
    assert store.usage().entries == 1 and store.usage().bytes > 60


def test_every_flipped_byte_of_an_entry_is_noticed(store: Store) -> None:
    store.write(KEY, tensors())
    file = only_file(store)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        found = store.read(KEY)
        assert found is None or same(found, tensors()), place
    file.write_bytes(whole)
    assert same(store.read(KEY), tensors())


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "foreign"])
def test_a_damaged_or_foreign_entry_is_written_anew(store: Store, damage: str) -> None:
    store.write(KEY, tensors())
    file = only_file(store)
    whole = file.read_bytes()
    if damage == "foreign":  # a whole entry, of another key, under this one's name
        store.write({"other": 1}, tensors(seed=1))
        assert store.folder is not None
        other = next(found for found in store.folder.glob(f"*/*{SUFFIX}") if found != file)
        whole = other.read_bytes()
        other.unlink()
    file.write_bytes({"cut": whole[:-7], "empty": b"", "noise": os.urandom(200), "foreign": whole}[damage])
    assert store.read(KEY) is None
    assert same(store.write(KEY, tensors()), tensors()) and same(store.read(KEY), tensors())


def test_the_budget_evicts_the_least_recently_used(tmp_path: Path) -> None:
    one = sum(tensor.nbytes for tensor in tensors(rows=1000).values())
    writer = Store(tmp_path / "store", budget=3 * one + 3000)
    for number in range(3):
        writer.write({"number": number}, tensors(number, 1000))
    for number, file in enumerate(sorted(tmp_path.glob("store/*/*"), key=lambda file: file.stat().st_mtime_ns)):
        os.utime(file, (1000 + number, 1000 + number))
    late = Store(tmp_path / "store", budget=3 * one + 3000)
    assert late.read({"number": 0}) is not None  # used just now
    assert same(late.write({"number": 3}, tensors(3, 1000)), tensors(3, 1000))
    assert [late.read({"number": number}) is not None for number in range(4)] == [True, False, True, True]
    assert late.usage().bytes <= late.budget


def test_an_entry_of_this_very_run_is_not_dropped_for_the_next(tmp_path: Path) -> None:
    one = sum(tensor.nbytes for tensor in tensors(rows=1000).values())
    store = Store(tmp_path / "store", budget=one + 2000)
    assert store.write({"number": 0}, tensors(0, 1000)) is not None
    assert store.write({"number": 1}, tensors(1, 1000)) is None
    assert store.failure is not None and "budget" in store.failure
    assert same(store.read({"number": 0}), tensors(0, 1000))


def test_a_budget_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", budget=0)
    assert store.budget == 0 and store.write(KEY, tensors()) is None and not (tmp_path / "store").exists()


def refuse(error: int) -> Any:
    def refusing(*arguments: Any, **settings: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return refusing


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("pathlib.Path.mkdir", errno.EACCES),  # a folder above that may not be written
        ("tempfile.mkstemp", errno.EROFS),
        ("safetensors.torch.save_file", errno.ENOSPC),  # fills while it is written
        ("os.posix_fallocate", errno.ENOSPC),
        ("pathlib.Path.replace", errno.EXDEV),
    ],
)
@pytest.mark.parametrize("way", ["write", "draft"])
def test_a_folder_that_cannot_be_written_is_a_reason_not_an_error(
    tmp_path: Path, way: str, target: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setattr(target, refuse(error))
    kept: Any
    if way == "write":
        kept = store.write(KEY, tensors())
    elif (draft := store.draft(KEY, (4, 2))) is None:
        kept = None
    else:  # what was filled can be used, kept or not
        draft.array[:] = 7
        kept = draft.keep(3, {})
        assert kept.shape == (3, 2) and (kept == 7).all()
    monkeypatch.undo()
    spared = {"write": "os.posix_fallocate", "draft": "safetensors.torch.save_file"}[way]
    assert (store.failure is None) is (target == spared)
    if target != spared:
        assert store.failure is not None and "cannot be written" in store.failure
        assert store.read(KEY) is None and store.read_rows(KEY) is None and store.budget == 0
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_file_in_the_folder_s_place_is_a_reason_too(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    store = Store(tmp_path / "store")
    assert store.write(KEY, tensors()) is None and store.read(KEY) is None
    assert store.failure is not None and "cannot be written" in store.failure


@pytest.mark.parametrize("target", ["safetensors.safe_open", "pathlib.Path.open"])
def test_an_entry_that_may_not_be_read_is_missing(store: Store, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEY, tensors())
    filled(store)
    monkeypatch.setattr(target, refuse(errno.EACCES))
    monkeypatch.setattr("pathlib.Path.is_file", refuse(errno.EACCES))
    if target == "safetensors.safe_open":
        assert store.read(KEY) is None
    else:
        assert store.read_rows(KEY) is None


def test_a_folder_that_may_not_be_looked_into_holds_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEY, tensors())
    monkeypatch.setattr("pathlib.Path.glob", refuse(errno.EACCES))
    assert store.usage().entries == 0 and store.clear().entries == 0
    assert store.write({"other": 1}, tensors()) is not None


def test_a_store_that_may_only_be_read_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEY, tensors())
    filled(store)
    monkeypatch.setattr("os.utime", refuse(errno.EROFS))
    assert same(store.read(KEY), tensors()) and store.read_rows(KEY) is not None


def test_an_interrupted_write_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(KEY, tensors())
    assert store.folder is not None and not [file for file in store.folder.rglob("*") if file.is_file()]


def test_the_store_takes_at_most_half_of_the_free_space(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert store.budget == 500 and store.draft(KEY, (501,)) is None and store.draft(KEY, (400,)) is not None


def test_clear_removes_entries_and_partial_files(store: Store) -> None:
    store.write(KEY, tensors())
    left = only_file(store).with_name(".half.partial")
    left.write_bytes(b"half")
    assert store.clear().entries == 1
    assert store.usage().entries == 0 and not left.exists() and store.read(KEY) is None


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500M", 500 * 2**20), ("1.5g", 1.5 * 2**30), (" 7 ", 7)])
def test_a_budget_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("ZOO_CACHE_BUDGET", text)
    assert budget_from_environment() == size


@pytest.mark.parametrize("text", ["much", "-1", "5X", "nan", "inf"])
def test_an_invalid_budget_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ZOO_CACHE_BUDGET", text)
    with pytest.raises(UsageError, match="ZOO_CACHE_BUDGET"):
        Store()


def test_sizes_for_a_reader() -> None:
    assert [size_text(size) for size in (5, 5 * 2**10, 5 * 2**20, 1.5 * 2**30)] == ["5 B", "5 KiB", "5 MiB", "1.5 GiB"]


def filled(store: Store, rows: int = 3) -> np.ndarray:
    draft = store.draft(KEY, (4, 2, 5))
    assert draft is not None
    draft.array[:] = np.arange(40, dtype=np.uint8).reshape(4, 2, 5)
    return draft.keep(rows, {"3": "is broken"})


def test_rows_are_read_with_their_note(store: Store) -> None:
    kept = filled(store)
    found = store.read_rows(KEY)
    assert found is not None and found[1] == {"3": "is broken"}
    assert np.array_equal(found[0], kept) and np.array_equal(kept, np.arange(30, dtype=np.uint8).reshape(3, 2, 5))
    assert store.read_rows({**KEY, "number": 2}) is None and store.usage().entries == 1


def test_every_flipped_byte_of_rows_is_noticed(store: Store) -> None:
    kept = np.array(filled(store))
    assert store.folder is not None
    (file,) = store.folder.glob("*/*.rows")
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        found = store.read_rows(KEY)
        assert found is None or (np.array_equal(found[0], kept)), place
    for damaged in (b"", whole[:-3], whole[3:], os.urandom(90)):
        file.write_bytes(damaged)
        assert store.read_rows(KEY) is None


def test_a_draft_that_is_dropped_leaves_nothing(store: Store) -> None:
    draft = store.draft(KEY, (2, 2))
    assert draft is not None
    draft.drop()
    assert store.folder is not None and not [file for file in store.folder.rglob("*") if file.is_file()]


def test_no_draft_over_the_budget(tmp_path: Path) -> None:
    assert Store(tmp_path, budget=100).draft(KEY, (101,)) is None


def _hammer(folder: Path, seed: int) -> bool:
    """Write and read the same keys as every other process does, with little room."""
    store = Store(folder, budget=20_000)
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(12), 10))
    for number in order.tolist():
        found = store.read({"number": number})
        if found is None:
            found = store.write({"number": number}, tensors(number, 100)) or tensors(number, 100)
        if not same(found, tensors(number, 100)):
            return False
    return True


def test_processes_share_a_store(tmp_path: Path) -> None:
    # processes of a server that has imported what they need: each would take seconds for it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch", "zoo.storage.tensor_store"])
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        assert all(pool.map(_hammer, [tmp_path / "store"] * 3, range(3)))


def test_partial_files_are_removed_after_a_day(store: Store) -> None:
    store.write(KEY, tensors())
    old, new = (only_file(store).with_name(f".{name}.partial") for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    store.write({"other": 1}, tensors())
    assert not old.exists() and new.exists()
