"""The live page of a study: how far it is, its report as it grows, and nothing for anybody but this machine."""

from __future__ import annotations

import json
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock
from starlette.testclient import TestClient
from tests_support import TINY, make_photos

import zoo.reports.live
from zoo import Plugins, ZooError, train
from zoo.reports.live import make_live_app, serve_live
from zoo.runs.run import Run

WAY = {"backbone": "timm/test_resnet", "strategy": "full"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("live")
    data = make_photos(folder / "data", {"train": 8, "val": 6})
    return train(replace(TINY, data=str(data), strategy="full", epochs=1), out=folder / "run")


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    """A study of two trials that has begun, with a search that goes on."""
    study = {"data": run.experiment.data, "backbones": ["timm/test_resnet"], "strategies": ["full"], "seeds": [0, 1]}
    record: dict[str, Any] = {"schema": 1, "study": {**study, "search": 4}, "status": "running", "trials": 2}
    (tmp_path / "study.json").write_text(json.dumps({**record, "data_name": "locked:photos", "versions": {}}))
    runs = tmp_path / "search/x"
    runs.mkdir(parents=True)
    (runs / "search.json").write_text(json.dumps({"schema": 1, "configuration": "timm/<b>net</b> full", "trials": 4}))
    shutil.copytree(run.path, runs / "0")
    return tmp_path


def finish(folder: Path, run: Run) -> None:
    shutil.copytree(run.path, folder / "trials/one")
    line = {"name": "one", **WAY, "seed": 0, "fraction": 1.0, "status": "finished", "seconds": 2.0, "core_seconds": 3.0}
    (folder / "outcomes.jsonl").write_text(json.dumps(line) + "\n")


def test_the_page_grows(folder: Path, run: Run, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(make_live_app(folder, plugins), base_url="http://127.0.0.1:8080")
    with FileLock(folder / ".lock"):
        page = client.get("/")
        assert page.status_code == 200 and '<meta http-equiv="refresh" content="5">' in page.text
        assert "study running: 2 trials, 0 finished" in page.text and "No trial is finished yet" in page.text
        assert "timm/&lt;b&gt;net&lt;/b&gt; full: 1 of 4 trials ended: 1 finished" in page.text
        finish(folder, run)
        grown = client.get("/").text
        assert "2 trials, 1 finished" in grown and "Leaderboard" in grown and "refresh" in grown
        written = sorted(file.name for file in folder.iterdir())
        monkeypatch.setattr(zoo.reports.live, "study_page", None)  # it is not computed again
        assert client.get("/").text == grown
    assert "its session is gone" in client.get("/").text and 'http-equiv="refresh"' not in client.get("/").text
    assert sorted(file.name for file in folder.iterdir()) == written
    (folder / "study.json").unlink()
    assert client.get("/").status_code == 503


def test_a_name_of_another_machine_is_refused(folder: Path, plugins: Plugins) -> None:
    client = TestClient(make_live_app(folder, plugins), base_url="http://evil.example")
    assert client.get("/").status_code == 400


def test_it_is_served_on_loopback(folder: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    pages: list[str] = []
    servers: list[uvicorn.Server] = []

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    def load(address: str) -> None:
        pages.append(urllib.request.urlopen(address, timeout=30).read().decode())
        servers[0].should_exit = True

    monkeypatch.setattr(uvicorn, "Server", Server)
    serve_live(folder, 0, lambda address: Thread(target=load, args=(address,)).start(), plugins)
    assert "2 trials, 0 finished" in pages[0]


def test_a_port_that_is_taken(folder: Path, plugins: Plugins) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ZooError, match=str(taken.getsockname()[1])):
            serve_live(folder, taken.getsockname()[1], print, plugins)
