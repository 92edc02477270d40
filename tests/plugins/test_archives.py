"""Archives, shards, exports and stores: what is read, and what is wrong with them."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from messages import refused
from tests_support import make_photos

from zoo import Images, UsageError, ZooError
from zoo.data.opening import absolute, open_images, open_to_score, open_unlabelled
from zoo.plugin import Plugins
from zoo_datasets import remote


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of four images each."""
    return make_photos(tmp_path_factory.mktemp("archived"), {"": 4})


def names(photos: Path) -> list[str]:
    return sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))


def ids(images: Images) -> set[str]:
    return {sample.id for part in images.splits.values() for sample in part}


def zipped(photos: Path, file: Path) -> zipfile.ZipFile:
    packed = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
    for name in names(photos):
        packed.write(photos / name, name)
    return packed


def test_members_of_a_zip_that_are_not_read(photos: Path, tmp_path: Path) -> None:
    with zipped(photos, tmp_path / "p.zip") as packed:
        link = zipfile.ZipInfo("red/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("../out.jpg", b"x")
        packed.writestr("/absolute.jpg", b"x")
        packed.writestr("C:/windows.jpg", b"x")
        packed.writestr("red/bomb.jpg", b"\0" * (1 << 25))
        packed.writestr("__MACOSX/red/._000.jpg", b"x")
        packed.writestr("red/notes.txt", b"x")
    images = open_images(f"zip:{tmp_path}/p.zip", 0, Plugins())
    reasons = dict(images.rejected)
    assert ids(images) == set(names(photos))
    assert "link" in reasons["red/link.jpg"] and ".." in reasons["../out.jpg"]
    assert "absolute" in reasons["/absolute.jpg"] and "absolute" in reasons["C:/windows.jpg"]
    assert "bomb" in reasons["red/bomb.jpg"] and "suffix" in reasons["red/notes.txt"]
    assert not any("MACOSX" in name for name in reasons)


def test_zips_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"no zip")
    with refused(ZooError, "p.zip", "zip archive"):
        open_images(f"zip:{tmp_path}/p.zip", 0, Plugins())
    with refused(UsageError, "nowhere.zip", "exist"):
        open_images(f"zip:{tmp_path}/nowhere.zip", 0, Plugins())
    zipped(photos, tmp_path / "p.zip").close()
    data = bytearray((tmp_path / "p.zip").read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = -1
        while (start := data.find(mark, start + 1)) >= 0:
            data[start + place] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with refused(ZooError, "locked.zip", "encrypted"):
        open_images(f"zip:{tmp_path}/locked.zip", 0, Plugins())


def test_a_damaged_member_of_a_zip_is_an_unreadable_image(photos: Path, tmp_path: Path) -> None:
    zipped(photos, tmp_path / "p.zip").close()
    data = bytearray((tmp_path / "p.zip").read_bytes())
    data[200:260] = bytes(60)
    (tmp_path / "p.zip").write_bytes(data)
    images = open_images(f"zip:{tmp_path}/p.zip", 0, Plugins())
    broken = next(one for part in images.splits.values() for one in part if one.id == "blue/000.jpg")
    with pytest.raises(OSError, match="damaged"):
        broken.source.open()


def test_many_threads_read_one_zip(photos: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    zipped(photos, tmp_path / "p.zip").close()
    samples = [*open_unlabelled(f"zip:{tmp_path}/p.zip", Plugins()).samples] * 20

    def load(index: int) -> bytes:
        opened = samples[index].source.open()
        assert not isinstance(opened, np.ndarray)
        return opened.read()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, range(len(samples))))
    assert all(data == (photos / one.id).read_bytes() for one, data in zip(samples, found))


def sharded(photos: Path, file: Path, holder: str = "cls") -> tarfile.TarFile:
    archive = tarfile.open(file, "w")  # noqa: SIM115 - the caller closes it
    for name in names(photos):
        archive.add(photos / name, name)
        label = name.split("/")[0]
        text = json.dumps({"species": label, "other": 1}) if holder == "json" else label
        put(archive, name.replace("jpg", holder), text.encode())
    return archive


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("holder", ["cls", "txt", "json"])
def test_a_class_is_a_word_in_any_member(photos: Path, tmp_path: Path, holder: str) -> None:
    sharded(photos, tmp_path / "s-0.tar", holder).close()
    images = open_images(f"wds:{tmp_path}/s-{{0..0}}.tar", 0, Plugins())
    assert images.classes == ("blue", "red") and ids(images) == set(names(photos))


def test_members_of_a_shard_that_are_not_read(photos: Path, tmp_path: Path) -> None:
    with sharded(photos, tmp_path / "s.tar") as archive:
        link = tarfile.TarInfo("red/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        put(archive, "../out.jpg", b"x")
        put(archive, "/absolute.jpg", b"x")
        put(archive, "red/unlabelled.jpg", b"x")
    images = open_images(f"wds:{tmp_path}/s.tar", 0, Plugins())
    assert set(dict(images.rejected)) == {"red/link.jpg", "../out.jpg", "/absolute.jpg", "red/unlabelled.jpg"}
    assert ids(images) == set(names(photos))


def test_a_shard_from_a_mac_and_one_with_holes(photos: Path, tmp_path: Path) -> None:
    with sharded(photos, tmp_path / "s.tar") as archive:
        for name in names(photos):
            put(archive, name.replace("/", "/._"), b"\0\5\x16\7")
            put(archive, name.replace("/", "/._").replace("jpg", "cls"), b"\0\5\xff")
    images = open_images(f"wds:{tmp_path}/s.tar", 0, Plugins())
    assert ids(images) == set(names(photos)) and not images.rejected
    with sharded(photos, tmp_path / "s.tar") as archive:
        hole = tarfile.TarInfo("red/hole.jpg")
        hole.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": "9000", "GNU.sparse.map": "0,10"}
        hole.size = 10
        archive.addfile(hole, io.BytesIO(b"0123456789"))
        put(archive, "red/hole.cls", b"red")
    assert "sparse" in dict(open_images(f"wds:{tmp_path}/s.tar", 0, Plugins()).rejected)["red/hole.jpg"]


def test_a_label_that_comes_twice_in_a_shard(photos: Path, tmp_path: Path) -> None:
    with sharded(photos, tmp_path / "s.tar") as archive:
        put(archive, "blue/000.cls", b"red")
    with refused(ZooError, "blue/000.cls", "twice", "`blue`", "`red`"):
        open_images(f"wds:{tmp_path}/s.tar", 0, Plugins())


def test_a_shard_that_is_damaged_says_so(photos: Path, tmp_path: Path) -> None:
    sharded(photos, tmp_path / "s.tar").close()
    whole = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as archive:
        members = archive.getmembers()
    broken = bytearray(whole)
    broken[members[6].offset : members[6].offset + 512] = b"\xff" * 512
    (tmp_path / "s.tar").write_bytes(broken)
    images = open_to_score(f"wds:{tmp_path}/s.tar", 0, Plugins())
    assert len(ids(images)) == 3 and "damaged" in dict(images.rejected)[f"{tmp_path}/s.tar"]
    (tmp_path / "s.tar").write_bytes(whole[: members[6].offset_data + 100])
    images = open_to_score(f"wds:{tmp_path}/s.tar", 0, Plugins())
    assert len(ids(images)) == 3 and images.rejected
    (tmp_path / "s.tar").write_bytes(b"\x1f\x8b no tar")
    with refused(ZooError, "s.tar", "uncompressed"):
        open_images(f"wds:{tmp_path}/s.tar", 0, Plugins())


def test_a_shard_that_ends_between_members_or_is_empty_says_so(photos: Path, tmp_path: Path) -> None:
    sharded(photos, tmp_path / "s.tar").close()
    with tarfile.open(tmp_path / "s.tar") as archive:
        end = archive.getmembers()[6].offset
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:end])
    images = open_to_score(f"wds:{tmp_path}/cut.tar", 0, Plugins())
    assert len(ids(images)) == 3 and "cut short" in dict(images.rejected)[f"{tmp_path}/cut.tar"]
    (tmp_path / "none.tar").write_bytes(bytes(10_240))
    images = open_images(f"wds:{tmp_path}/s.tar,{tmp_path}/none.tar", 0, Plugins())
    assert ids(images) == set(names(photos)) and not images.rejected
    assert any("none.tar" in note and "empty" in note for note in images.notes)


@pytest.mark.parametrize("files", [("a/0.tar", "b/0.tar"), ("a.v1.tar", "a.v2.tar"), ("a/0.tar", "a/0")])
def test_shards_whose_names_are_alike_keep_all_their_images(
    photos: Path, tmp_path: Path, files: tuple[str, str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        sharded(photos, tmp_path / file).close()
    every = [f"{tmp_path}/{file}" for file in files]
    assert len(ids(open_images(f"wds:{','.join(every)}", 0, Plugins()))) == 2 * len(names(photos))
    images = open_images(f"wds:train={every[0]},val={every[1]}", 0, Plugins())
    assert [len(part) for part in images.splits.values() if len(part)] == [len(names(photos))] * 2
    twice = open_images(f"wds:{every[0]},{every[0]}", 0, Plugins())
    assert len(ids(twice)) == len(names(photos))


def test_shards_of_which_the_class_cannot_be_told(photos: Path, tmp_path: Path) -> None:
    with sharded(photos, tmp_path / "s.tar") as archive:
        put(archive, "red/000.txt", b"a caption")
    with refused(ZooError, "`cls`", "`txt`", "label="):
        open_images(f"wds:{tmp_path}/s.tar", 0, Plugins())
    assert open_images(f"wds:{tmp_path}/s.tar,label=cls", 0, Plugins()).classes == ("blue", "red")
    with refused(UsageError, "s-1.tar", "exist"):
        open_images(f"wds:{tmp_path}/s-{{1..2}}.tar", 0, Plugins())


def test_parquet_without_names_and_with_what_is_wrong(photos: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = [(photos / name).read_bytes() for name in names(photos)]
    labels = [1.0, 1.0, 1.0, None, 2.0, 2.0, 2.0, float("nan")]
    file = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"x": cells, "label": labels}), file)
    images = open_images(f"parquet:{file}", 0, Plugins())
    assert images.classes == ("1", "2") and len(images.rejected) == 2 and "p/00000000" in ids(images)
    with refused(UsageError, "lable", "did you mean `label`"):
        open_images(f"parquet:{file},label=lable", 0, Plugins())
    pyarrow.parquet.write_table(pyarrow.table({"x": cells, "label": [["a"]] * 8}), file)
    with refused(ZooError, "label", "list"):
        open_images(f"parquet:{file}", 0, Plugins())
    views = {"x": pyarrow.array(cells, pyarrow.binary_view()), "label": pyarrow.array(list("aabbaabb"))}
    pyarrow.parquet.write_table(pyarrow.table(views), file)
    opened = open_unlabelled(f"parquet:{file}", Plugins()).samples[3].source.open()
    assert not isinstance(opened, np.ndarray) and opened.read() == cells[3]
    file.write_bytes(b"PAR1")
    with refused(ZooError, "p.parquet", "parquet"):
        open_images(f"parquet:{file}", 0, Plugins())


def test_lists_with_classes_by_folder_and_by_number(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("\n".join(names(photos)))
    images = open_images(f"list:{tmp_path}/a b.txt,root={photos}", 0, Plugins())
    assert images.classes == ("blue", "red") and any("folder" in note for note in images.notes)
    (tmp_path / "names.txt").write_text("blau\nrot\n")
    (tmp_path / "n.txt").write_text("\n".join(f"{name} {int(name[0] == 'r')}" for name in names(photos)))
    images = open_images(f"list:{tmp_path}/n.txt,root={photos},names={tmp_path}/names.txt", 0, Plugins())
    assert images.classes == ("blau", "rot")
    (tmp_path / "n.txt").write_text("red/000.jpg 2\nblue/000.jpg 0")
    with refused(ZooError, "`2`", "2 names"):
        open_images(f"list:{tmp_path}/n.txt,root={photos},names={tmp_path}/names.txt", 0, Plugins())
    (tmp_path / "n.txt").write_text("red/000.jpg red\nno image\n")
    with refused(ZooError, "line 2", "no image"):
        open_images(f"list:{tmp_path}/n.txt,root={photos}", 0, Plugins())


def test_exports_of_annotation_tools(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    pairs = [(name, name.split("/")[0]) for name in names(photos)]
    choice = [
        {
            "data": {"image": f"/data/local-files/?d={name}"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}}]}],
        }
        for name, label in pairs
    ]
    tags = "".join(f'<image name="{name}"><tag label="{label}"/></image>' for name, label in pairs)
    small = [{"image": name, "choice": label} for name, label in pairs]
    expected = open_images(str(photos), 0, Plugins()).splits
    for text in (json.dumps(choice), json.dumps(small), f"<annotations>{tags}</annotations>"):
        file.write_text(text)
        assert open_images(f"coco:{file},root={photos}", 0, Plugins()).splits == expected
    found = {
        "images": [{"id": 1, "file_name": "red/000.jpg"}],
        "annotations": [{"image_id": 1, "category_id": each} for each in (1, 2)],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    }
    file.write_text(json.dumps(found))
    with refused(ZooError, "red/000.jpg", "`ant`, `bee`", "one class"):
        open_images(f"coco:{file},root={photos}", 0, Plugins())
    for text in ("{}", "[1]", "<a/>", "{", "", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(ZooError, match=r"e\.json"):
            open_images(f"coco:{file},root={photos}", 0, Plugins())


class _Server(BaseHTTPRequestHandler):
    data = b""

    def do_GET(self) -> None:
        if "forbidden" in self.path:
            self.send_error(403)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        if "slow" in self.path:
            self.server.waiting.wait(5)  # type: ignore[attr-defined]
        self.wfile.write(self.data[: 100 if "cut" in self.path else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    """The address of a server whose answers depend on the path: whole, 403, slow, or cut."""
    handler = type("Handler", (_Server,), {"data": (photos / "red/000.jpg").read_bytes()})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running.waiting = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.waiting.set()  # type: ignore[attr-defined]
    running.shutdown()
    thread.join()
    running.server_close()


def test_paths_that_are_urls(server: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    kinds = ("whole.jpg", "forbidden.jpg", "slow.jpg", "cut.jpg")
    (tmp_path / "t.csv").write_text("path\n" + "".join(f"{server}/{kind}\n" for kind in kinds))
    whole, *others = open_unlabelled(f"csv:{tmp_path}/t.csv", Plugins()).samples
    opened = whole.source.open()
    assert not isinstance(opened, np.ndarray) and opened.read() == (photos / "red/000.jpg").read_bytes()
    for one, word in zip(others, ("403", "nothing for", "too early")):
        with pytest.raises(OSError, match=word):
            one.source.open()
    with refused(UsageError, server, "csv:"):
        open_images(f"folder:{server}/photos", 0, Plugins())


def test_class_folders_in_a_store(photos: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in names(photos):
        store.pipe(f"/bucket/photos/{name}", (photos / name).read_bytes())
    expected = open_images(str(photos), 0, Plugins()).splits
    for text in ("folder:memory://bucket/photos", "memory://bucket/photos/"):
        assert open_images(text, 0, Plugins()).splits == expected and absolute(text, Plugins()) == text
    with refused(UsageError, "memory://nowhere", "nothing"):
        open_images("folder:memory://nowhere", 0, Plugins())
    with refused(UsageError, "strange://bucket", "protocol"):
        open_images("folder:strange://bucket", 0, Plugins())
