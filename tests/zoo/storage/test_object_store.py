"""Object stores: a name is created once, and claims go from a holder that died to the next, without any clock."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, SECRET, Store, running
from s3fs import S3FileSystem

from zoo import UsageError, ZooError
from zoo.errors import DiskFull
from zoo.storage import object_store
from zoo.storage.object_store import ObjectStore, hold, open_store


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    monkeypatch.setattr(object_store, "S3_TRIES", 1)
    with running(monkeypatch, tmp_path) as store:
        yield store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return open_store(f"s3://{BUCKET}/pre/fix")
    return open_store((tmp_path / "a b").as_uri())


def test_objects_are_written_read_listed_and_created_once(store: ObjectStore) -> None:
    store.check()
    assert store.read("trials/a/x") is None and store.names("trials/a") == []
    store.write("trials/a/x", b"1")
    store.write("trials/a/x", b"2")
    assert store.create("trials/a/y", b"3") and not store.create("trials/a/y", b"4")
    store.write("trials/ab", b"5")
    assert [store.read(name) for name in ("trials/a/x", "trials/a/y")] == [b"2", b"3"]
    assert store.names("trials/a") == ["trials/a/x", "trials/a/y"]


def test_of_many_that_create_one_name_one_succeeds(store: ObjectStore) -> None:
    barrier, made = threading.Barrier(8), []

    def create(mine: bytes) -> None:
        barrier.wait()
        if store.create("x", mine):
            made.append(mine)

    threads = [threading.Thread(target=create, args=(f"{number}".encode(),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and store.read("x") == made[0]


def test_an_object_that_was_created_while_the_answer_was_lost_is_ones_own(s3: Store) -> None:
    store = open_store(f"s3://{BUCKET}/pre")
    s3.objects |= {"pre/mine": b"1", "pre/theirs": b"2"}  # and the library asks again
    assert store.create("mine", b"1") and not store.create("theirs", b"1")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("denied", ZooError, "refuses to be written: Access Denied"),
        ("full", DiskFull, "is full"),
    ],
)
def test_a_store_that_fails_is_one_line_without_a_secret(
    fault: str, kind: type[ZooError], message: str, s3: Store
) -> None:
    s3.faults["*"] = fault
    with pytest.raises(kind, match=message) as error:
        open_store(f"s3://{BUCKET}/pre").check()
    assert SECRET not in str(error.value) and "\n" not in error.value.message


def test_a_bucket_that_is_not_there_and_a_store_that_is_not(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZooError, match="`s3://other/x` cannot be written: The specified bucket does not exist"):
        open_store("s3://other/x").check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()  # which would go on with the address before
    with pytest.raises(ZooError, match="cannot be written") as error:
        open_store(f"s3://{BUCKET}/x").check()
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/x", "`s3://bucket/x` was given with a user's name"),
        ("s3://", "names no bucket"),
        ("nothing://x", "cannot be used: Protocol not known"),
        ("file://relative", "is not a folder's URL"),
        ("s3://key:with/secret@bucket/x", "`s3://bucket/x` was given with a user's name"),
        ("s3://key:secret@/bucket/x", "`s3:///bucket/x` was given with a user's name"),
        (" ", "has no address"),
        ("s3:bucket/x", "`s3:bucket/x` is no URL of a store"),
        ("simplecache::s3://bucket/x", "is no URL of a store"),
        ("memory://x", "is in the memory of one process"),
        ("s3://bucket//a", "has two slashes in a row"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        open_store(address)
    assert "secret@" not in str(error.value)


def test_a_store_that_cannot_be_reached_when_it_is_opened_is_one_line() -> None:
    with pytest.raises(ZooError, match=r"the store `ftp://127\.0\.0\.1:9/x` cannot be reached: ") as error:
        open_store("ftp://127.0.0.1:9/x")
    assert "\n" not in error.value.message and error.value.hint


def test_claims_that_cannot_be_listed_are_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.create("claims/t/000001.json", b"{}")
    assert store.names("claims/u") == []

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ZooError, match="cannot be read: permission denied"):
        store.names("claims/t")


def test_a_folder_that_cannot_be_written_is_a_store_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(object_store.StoreError, match=f"the store `{tmp_path}` cannot be written: read-only"):
        store.check()


def test_a_folder_that_is_full_or_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ZooError, match="cannot be written"):
        open_store(str(tmp_path / "file")).check()
    store = open_store(str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=f"the store `{tmp_path}` is full"):
        store.create("x", b"1")


BEAT = 0.02


def test_a_claim_is_waited_for_while_its_holder_lives(store: ObjectStore) -> None:
    order: list[str] = []
    told: list[object] = []

    def second() -> None:
        with hold(store, "t", {"host": "b"}, BEAT, lambda note: told.append(note["host"])) as held:
            order.append("second")
            assert held.number == 2

    with hold(store, "t", {"host": "a"}, BEAT) as held:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.4)  # many times the signs of life that one may miss
        order.append("first")
        assert not held.lost
    thread.join(timeout=30)
    assert order == ["first", "second"] and set(told) == {"a"}
    for number in (1, 2):  # one that has ended is not waited for as one that died is
        assert store.read(f"claims/t/{number:06d}.beat") == object_store.OVER


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_claim_of_a_holder_that_died_is_taken_over_whatever_its_clock_said(hours: int, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("claims/t/000001.json", b'{"host": "a", "time": "2020-01-01T00:00:00Z"}')
    store.write("claims/t/000001.beat", b"7")
    for file in (tmp_path / "claims" / "t").iterdir():
        stamp = file.stat().st_mtime + hours * 3600
        os.utime(file, (stamp, stamp))
    told: list[object] = []
    with hold(store, "t", {"host": "b"}, BEAT, told.append) as held:
        assert held.number == 2 and not told
        store.create("claims/t/000003.json", b"{}")  # a third one took this one for dead
        assert held.lost
