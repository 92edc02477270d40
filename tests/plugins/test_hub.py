"""`hf:NAME`: a stand-in for the Hugging Face hub on loopback, which has one dataset of class folders."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests_support import make_photos

from zoo_datasets.huggingface import why_refused

REVISION = "a" * 40
TOKEN = "hf_SECRETTOKEN"
INFO = {
    "id": "me/photos",
    "sha": REVISION,
    "private": False,
    "disabled": False,
    "gated": False,
    "downloads": 0,
    "likes": 0,
    "tags": [],
    "lastModified": "2026-01-01T00:00:00.000Z",
    "createdAt": "2026-01-01T00:00:00.000Z",
}

OPEN = """
import json, sys
from zoo.data.opening import absolute, open_images
from zoo.errors import ZooError
from zoo.plugin import Plugins
plugins = Plugins()
data = absolute(sys.argv[1], plugins)
try:
    images = open_images(data, 0, plugins)
    size = lambda one: len(one.source.open().read())
    found = {role: [(one.id, one.label, size(one)) for one in part] for role, part in images.splits.items()}
    print(json.dumps({"data": data, "found": found, "notes": images.notes, "rejected": images.rejected}))
except ZooError as error:
    print(json.dumps({"data": data, "error": str(error)}))
"""


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}  # noqa: RUF012 - set by the fixture
    fault: tuple[int, str] | None = None

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if self.fault is not None:
            self._say(self.fault[0], {"error": "no"}, {"X-Error-Code": self.fault[1], "X-Error-Message": "no"})
            return
        place = path.removeprefix("/api/datasets/me/photos")
        if path != place and (not place or place.startswith("/revision/")):
            self._say(200, INFO | {"siblings": [{"rfilename": name} for name in self.files]})
        elif path != place and place.startswith("/tree/"):
            below = "/".join(place.split("/")[3:])
            self._say(200, self._listed(below, "recursive=true" in self.path))
        elif path.startswith("/datasets/me/photos/resolve/") and (name := "/".join(path.split("/")[6:])) in self.files:
            data = self.files[name]
            self._say(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION})
        else:
            self._say(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._say(404, {"error": "not found"})

    def _listed(self, below: str, recursive: bool) -> list[dict[str, Any]]:
        start = f"{below}/" if below else ""
        found: dict[str, dict[str, Any]] = {}
        for name, data in self.files.items():
            if not name.startswith(start):
                continue
            parts = name.removeprefix(start).split("/")
            for count in range(1, len(parts) + 1):
                if recursive or count == 1:
                    is_file = count == len(parts)
                    kind, size = ("file", len(data)) if is_file else ("directory", 0)
                    path = start + "/".join(parts[:count])
                    found[path] = {"type": kind, "oid": "1" * 40, "size": size, "path": path}
        return list(found.values())

    def _say(self, code: int, data: Any, headers: dict[str, str] | None = None) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(code)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the hub, and the folder of its photographs."""
    photos = make_photos(tmp_path_factory.mktemp("hub"), {"train": 3, "val": 2})
    files = {f"data/{file.relative_to(photos).as_posix()}": file.read_bytes() for file in sorted(photos.rglob("*.jpg"))}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"files": files}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", photos
    server.shutdown()
    thread.join()
    server.server_close()


def opened(data: str, address: str, home: Path, *, offline: bool = False) -> dict[str, Any]:
    """What a fresh process opens: the hub's address is read once, when its library is imported."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN}
    settings |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, data], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    assert TOKEN not in done.stdout + done.stderr and done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_dataset_of_the_hub_is_pinned_to_its_revision(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, photos = hub
    found = opened("hf:me/photos", address, tmp_path)
    assert found["data"] == f"hf:me/photos@{REVISION}", found
    assert {role: len(part) for role, part in found["found"].items()} == {"train": 6, "val": 4}
    sizes = sorted((label, size) for _, label, size in found["found"]["train"])
    assert sizes == sorted((file.parent.name, file.stat().st_size) for file in (photos / "train").rglob("*.jpg"))


def test_a_branch_is_recorded_as_its_commit_and_a_kept_copy_with_it(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = hub
    found = opened("hf:me/photos@main", address, tmp_path)
    assert found["data"] == f"hf:me/photos@{REVISION}" and not any(REVISION in note for note in found["notes"])
    kept = opened("hf:me/photos", address, tmp_path, offline=True)
    assert kept["found"] == found["found"] and any(REVISION in note for note in kept["notes"])
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_a_dataset_that_the_hub_has_not_is_named(hub: tuple[str, Path], tmp_path: Path) -> None:
    found = opened("hf:me/nothing@main", hub[0], tmp_path)
    assert "me/nothing@main" in found["error"] and "HF_TOKEN" in found["error"] and "hint:" in found["error"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((401, "RepoNotFound"), ["private", "HF_TOKEN"]),
        ((403, "GatedRepo"), ["granted", "ask for it on"]),
        ((403, "other"), ["403", "HF_TOKEN"]),
        ((404, "RevisionNotFound"), ["no revision `v1`", "commit, branch or tag"]),
        ((500, "other"), ["500", "try again later"]),
        ((502, "other"), ["502", "try again later"]),
        (None, ["127.0.0.1:9", "network"]),
    ],
)
def test_what_the_hub_says_against_a_dataset(
    fault: tuple[int, str] | None, words: list[str], hub: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"fault": fault}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        port = server.server_port if fault else 9
        said = why_refused("me/photos", "v1", f"http://127.0.0.1:{port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert said is not None and all(word in " ".join(said) for word in words), said


def test_images_that_the_metadata_of_a_folder_does_not_name(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 4})
    names = sorted(file.relative_to(photos / "train").as_posix() for file in photos.rglob("*.jpg"))
    rows = [f"{name},{name.split('/')[0]}\n" for name in names[1:]]
    (photos / "train/metadata.csv").write_text("file_name,label\n" + "".join(rows))
    found = opened(f"hf:{photos}", "http://127.0.0.1:9", tmp_path / "home", offline=True)
    assert sum(map(len, found["found"].values())) == 7
    assert found["rejected"] == [[f"train/{names[0]}", "is in the folder, but in no row of its metadata"]]
