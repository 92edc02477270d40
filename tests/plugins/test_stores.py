"""Images in S3 and behind addresses: what fails, how it is said, and that nothing is lost by it.

The store is a stand-in on loopback; `benchmarks/object_store.py` shows the same against moto.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused
from s3_server import SECRET, Store, credentials, running
from tests_support import TINY, make_photos

from zoo import UsageError, ZooError, train
from zoo.data.data_argument import check_no_secret, without_secret
from zoo.data.decode_plan import decode_requests
from zoo.data.decoding import decode_parts
from zoo.data.opening import absolute, open_images, open_unlabelled
from zoo.data.roles import Roles
from zoo.dataset import ImageSource
from zoo.errors import Unreachable
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.storage.tensor_store import Store as PixelStore
from zoo_datasets import remote
from zoo_datasets.reachability import ENOUGH

DATA = "s3://bucket/photos"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("stored"), {"": 4})


@pytest.fixture
def store(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket with the photographs below `photos/`."""
    with running(monkeypatch, tmp_path) as found:
        for file in photos.rglob("*.jpg"):
            found.objects[f"photos/{file.relative_to(photos).as_posix()}"] = file.read_bytes()
        yield found


def sources(data: str) -> dict[str, ImageSource]:
    return {one.id: one.source for one in open_unlabelled(data, Plugins()).samples}


def content(source: ImageSource) -> bytes:
    opened = source.open()
    assert not isinstance(opened, np.ndarray)
    return opened.read()


def test_what_the_bucket_holds_beside_photographs(store: Store, photos: Path) -> None:
    store.page = 3
    store.objects |= {"photos/": b"", "photos/red/": b"", "photosynthesis/a.jpg": b"x", "photos/red/.DS_Store": b"x"}
    store.objects["photos/red/a #1? ä%20.jpg"] = whole = store.objects["photos/red/000.jpg"]
    images = open_images(DATA, 0, Plugins())
    folder = {f.relative_to(photos).as_posix() for f in photos.rglob("*.jpg")}
    assert {one.id for part in images.splits.values() for one in part} == folder | {"red/a #1? ä%20.jpg"}
    assert not images.rejected and absolute(DATA, Plugins()) == DATA
    assert content(sources(DATA)["red/a #1? ä%20.jpg"]) == whole


def test_objects_that_are_new_are_seen_by_the_same_process(store: Store) -> None:
    before = sources(DATA)
    store.objects["photos/red/new.jpg"] = store.objects.pop("photos/red/000.jpg")
    assert set(sources(DATA)) ^ set(before) == {"red/000.jpg", "red/new.jpg"}
    with pytest.raises(FileNotFoundError):  # which was listed, and is gone
        before["red/000.jpg"].open()


@pytest.mark.parametrize(
    ("data", "fault", "words"),
    [
        (DATA, "denied", ["refuses", "Access Denied", "AWS_PROFILE"]),
        (DATA, "busy", ["reduce your request rate", "network"]),
        (DATA, "reset", ["cannot be listed", "network"]),
        ("s3://bucket/none", "", ["nothing at", "address"]),
        ("s3://none/photos", "", ["nothing at", "bucket does not exist"]),
        ("s3://", "", ["names no bucket", "such as"]),
        ("s3://bucket/photos/red/000.jpg", "", ["one object", "csv:"]),
        ("csv:s3://bucket/none.csv", "", ["none.csv", "no such object"]),
        ("zip:s3://bucket/p.zip", "", ["p.zip", "download"]),
    ],
)
def test_a_bucket_that_cannot_be_read(store: Store, data: str, fault: str, words: list[str]) -> None:
    store.faults[""] = fault
    with refused(ZooError, *words) as caught:
        open_images(data, 0, Plugins())
    assert SECRET not in str(caught.value) and "\n" not in caught.value.message
    assert len(store.asked) < 20


def test_a_store_without_credentials_or_without_an_address(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials(monkeypatch, tmp_path, secret=None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    with refused(ZooError, DATA, "no credentials", "AWS_ACCESS_KEY_ID", "FSSPEC_S3_ANON"):
        open_images(DATA, 0, Plugins())
    assert not store.asked
    credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote.file_system(DATA)[0].clear_instance_cache()
    with refused(ZooError, DATA, "http://127.0.0.1:9/bucket", "network"):
        open_images(DATA, 0, Plugins())


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("denied", "Access Denied"),
        ("gone", "does not exist"),
        ("cut", "too early"),
        ("reset", "too early"),
        ("silent", "in time"),
        ("trickle", "in time"),
        ("busy", "request rate|in time"),
    ],
)
def test_an_object_that_cannot_be_read_is_reported(
    store: Store, fault: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 2.0)
    found = sources(DATA)
    store.faults["photos/red/000.jpg"] = fault
    with pytest.raises(OSError, match=word) as caught:
        found["red/000.jpg"].open()
    assert SECRET not in str(caught.value)
    assert content(found["red/001.jpg"]) == store.objects["photos/red/001.jpg"]


def test_one_object_that_is_refused_is_left_out_and_named(store: Store, tmp_path: Path) -> None:
    spoilt = open_images(DATA, 0, Plugins()).splits["train"][0].id
    store.faults[f"photos/{spoilt}"] = "denied"
    run = train(replace(TINY, data=DATA, epochs=1, cache="off"), out=tmp_path / "run")
    bad = str(run.record["bad_images"])
    assert spoilt in bad and "Access Denied" in bad


@pytest.mark.parametrize("fault", ["reset", pytest.param("busy", marks=pytest.mark.slow)])  # 10 s of tries
def test_a_store_that_is_lost_ends_a_run_and_leaves_nothing_out(
    store: Store, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "S3_TRIES", 1)
    found = sources(DATA)
    for key in sorted(store.objects)[-ENOUGH:]:
        store.faults[key] = fault
    with refused(Unreachable, "s3://bucket", f"{ENOUGH} times"):
        for source in found.values():
            try:
                source.open()
            except OSError:
                continue
    with refused(ZooError, "s3://bucket", f"{ENOUGH} times", "run the same command again"):
        train(replace(TINY, data=DATA, epochs=1, cache="off"), out=tmp_path / "run")
    store.faults.clear()
    run = train(replace(TINY, data=DATA, epochs=1, cache="off"), out=tmp_path / "run")
    assert not run.record["bad_images"]


class _Web(BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}  # noqa: RUF012 - set by the fixture
    failing: dict[str, int] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked.append(self.path)
        if self.failing.get(path, 0) > 0:
            self.failing[path] -= 1
            self.close_connection = True
            return
        data = self.files.get(path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Web]]]:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    handler = type("Web", (_Web,), {"files": {}, "failing": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["a b.jpg", "ä/ñ.jpg", "a#1.jpg", "50%.jpg", "is it.jpg?.jpg", "a&b=c+d.jpg"])
def test_a_path_below_an_address_is_any_name(name: str, web: tuple[str, type[_Web]], tmp_path: Path) -> None:
    address, handler = web
    handler.files[f"/photos/{name}"] = name.encode()
    (tmp_path / "t.csv").write_text(f"path,label\n./{name},red\n".replace("/ñ", "\\ñ"))
    found = sources(f"csv:{tmp_path}/t.csv,path=path,root={address}/photos")
    assert list(found) == [name] and content(found[name]) == name.encode()


def test_a_failure_that_passes_is_none(web: tuple[str, type[_Web]], tmp_path: Path) -> None:
    address, handler = web
    handler.files["/a.jpg"] = b"a"
    handler.failing["/a.jpg"] = remote.TRIES - 1
    (tmp_path / "t.csv").write_text(f"path\n{address}/a.jpg\n")
    (source,) = sources(f"csv:{tmp_path}/t.csv").values()
    assert content(source) == b"a"
    handler.failing["/a.jpg"] = remote.TRIES
    with pytest.raises(OSError, match="without response"):
        source.open()


def test_a_server_that_never_answered_is_asked_no_more(
    web: tuple[str, type[_Web]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 1)
    address, handler = web
    rows = [f"{address}/{number}.jpg" for number in range(30)]
    handler.failing = dict.fromkeys((f"/{number}.jpg" for number in range(30)), 9)
    (tmp_path / "t.csv").write_text("path\n" + "\n".join(rows))
    for source in sources(f"csv:{tmp_path}/t.csv").values():
        with pytest.raises(OSError):
            source.open()
    assert len(handler.asked) == ENOUGH


def test_what_failed_once_is_not_remembered(
    web: tuple[str, type[_Web]], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of pixels is found by contents: an image that could not be read at one time is no damaged one."""
    monkeypatch.setattr(remote, "TRIES", 1)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    address, handler = web
    names = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    handler.files |= {f"/{name}": (photos / name).read_bytes() for name in names}
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in names))
    images = open_images(f"csv:{tmp_path}/t.csv,root={address}", 0, Plugins())
    parts = decode_requests(
        images, Roles(fit=images.splits["train"], choose=(), reported="test", notes=()), Preprocess(resize=32, crop=24)
    )
    spoilt = parts["fit"].samples[0].id

    def bad(fails_at: int) -> list[str]:
        count = 0

        class Failing(dict[str, int]):
            def get(self, path: str, default: object = None) -> int:
                nonlocal count
                count += path == f"/{spoilt}"
                return int(path == f"/{spoilt}" and count == fails_at)

            def __setitem__(self, path: str, value: int) -> None:
                pass

            def __getitem__(self, path: str) -> int:
                return 0

        handler.failing = Failing()
        store = PixelStore()
        keys = {name: {"part": name} for name in parts}
        _, found = decode_parts(images, parts, on_bad_image="skip", workers=2, store=store, keys=keys)
        return [one.id for one in found]

    assert bad(2) == [spoilt]  # it was read to be hashed, and not to be decoded
    assert bad(0) == []


def test_a_secret_is_neither_said_nor_recorded(tmp_path: Path) -> None:
    signed = "https://host/a.jpg?id=5&X-Amz-Signature=hidden&X-Amz-Date=1"
    (tmp_path / "t.csv").write_text(f"path\n{signed}\nhttps://me:hidden@host/b.jpg\n")
    found = sources(f"csv:{tmp_path}/t.csv")
    assert set(found) == {"https://host/a.jpg?id=5", "https://host/b.jpg"} and "hidden" not in str(found)
    with pytest.raises(OSError, match="not sent") as caught:
        found["https://host/b.jpg"].open()
    assert "hidden" not in str(caught.value)
    for data in (f"csv:{signed}", "folder:s3://key:hidden@bucket/photos", "s3://key:hidden@bucket"):
        with refused(UsageError, "--data", "password") as refusal:
            open_images(data, 0, Plugins())
        assert "hidden" not in str(refusal.value)


PARTS = st.text("abcdefghij0123456789-_.~", min_size=1, max_size=8)


@given(
    st.sampled_from(["http", "https", "s3", "gs"]),
    PARTS,
    PARTS,
    st.lists(st.tuples(st.sampled_from(["id", "v", "file", "size"]), PARTS), max_size=3),
    st.lists(st.sampled_from(["X-Amz-Signature", "Signature", "sig", "token", "X-Goog-Signature"]), max_size=2),
)
def test_an_address_loses_its_secrets_and_nothing_else(
    scheme: str, host: str, path: str, query: list[tuple[str, str]], secrets: list[str]
) -> None:
    plain = f"{scheme}://{host}/{path}" + ("?" + "&".join(f"{a}={b}" for a, b in query) if query else "")
    secret = plain + "".join(f"{'&' if '?' in plain else '?'}{name}=HIDDEN" for name in secrets[:1])
    secret += "".join(f"&{name}=HIDDEN" for name in secrets[1:])
    assert without_secret(plain) == plain and without_secret(secret) == plain
    for other in ("HTTP://h/a.csv?id=5", "http://h/a.csv?", "http://h/a?x=1&&y=2", "http://[h/a?id=5", "http://h/@a"):
        assert without_secret(other) == other
    assert without_secret(secret.replace("://", "://me:HIDDEN@")) == plain
    for password in ("HID/DEN", "HID?DEN", "HI#D/@EN"):  # which should have been encoded, and was pasted
        assert without_secret(plain.replace("://", f"://me:{password}@")) == plain
    assert without_secret(f"{scheme}://me:HIDDEN@/{path}") == f"{scheme}:///{path}"
    check_no_secret(f"csv:{plain},path=a")


@pytest.mark.parametrize("host", ["[bad", "me:HIDDEN@[bad", "a\u2100b"])
def test_an_address_that_is_none_is_named_and_the_others_are_read(host: str, tmp_path: Path) -> None:
    """One row with a bracket in its host is one bad image, not a table that cannot be opened."""
    plugins, url = Plugins(), f"http://{host}/labels.csv"
    with pytest.raises(ZooError) as error:
        open_images(f"csv:{url}", 0, plugins)
    assert "HIDDEN" not in error.value.message and "failed" not in error.value.message
    assert "it is no valid address" in error.value.message or "password" in error.value.message
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    files = [file.relative_to(root).as_posix() for file in sorted(root.rglob("*.jpg"))]
    rows = [(file, file.split("/")[1], file.split("/")[0]) for file in files]
    rows.append((f"http://{host}/a.jpg", rows[0][1], "train"))
    (root / "a.csv").write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows), "utf-8")
    samples = open_images(f"csv:{root}/a.csv", 0, plugins).splits["train"]
    bad = [sample for sample in samples if sample.id.startswith("http")]
    assert len(bad) == 1 and "HIDDEN" not in bad[0].id + str(bad[0].source)
    with pytest.raises(OSError, match=r"no valid address|name or password"):
        bad[0].source.open()
