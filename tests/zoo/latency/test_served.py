"""`zoo bench --serve`: a real server against the bare session. No figure depends on the clock."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo.errors import UsageError, ZooError
from zoo.latency.load_generator import Address, LoadGenerator
from zoo.latency.served import bench_served, rate_share
from zoo.plugin import Plugins

TOKEN = "secret"


@contextlib.contextmanager
def serving(file: Path, *options: str) -> Iterator[str]:
    """A running `zoo serve` of a file: its address."""
    command = [sys.executable, "-m", "zoo_cli.main", "serve", str(file), "--port", "0", "--drain", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"http://\S+:\d+", line)
            if found is not None:
                yield found[0]
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def url(exported_run: Path) -> Iterator[str]:
    pytest.importorskip("uvicorn")
    with serving(exported_run / "model.onnx") as address:
        yield address


def zoo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoo_cli.main", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_server_against_the_bare_session(
    url: str, exported_run: Path, two_splits: Path, plugins: Plugins, tmp_path: Path
) -> None:
    # by another name than the server's: it is found by its digest
    file = Path(shutil.copy(exported_run / "model.onnx", tmp_path / "copy.onnx"))
    photographs = sorted(two_splits.rglob("*.png")) or sorted(two_splits.rglob("*.jpg"))
    told: list[str] = []
    report = bench_served(
        file, url, photographs[:3], callers=3, seconds=0.05, rounds=3, plugins=plugins, on_progress=told.append
    )
    assert (report.model, report.agreeing, report.photographs, report.rounds) == ("model", 3, 3, 3)
    assert report.calls % 3 == 0 and report.calls >= 3 * 6  # at least two calls of each caller in a round
    assert report.workers is not None and report.bare_threads == min(3, report.workers)
    assert (report.p50_ratio is None) == (report.workers < 3)
    assert set(report.noise_floor) == {"rate", "p50"}
    assert report.rejected == 0 and report.rejected_p99 is None
    assert report.client_seconds > 0 and report.same_machine
    for side in (report.server, report.bare):
        assert 0 < side.p50.value <= side.p90.value <= side.p99.value
        assert side.images_per_second.low <= side.images_per_second.value <= side.images_per_second.high
    assert any("p99 rests on" in note for note in report.notes)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["rejected_pause"] > 0
    assert told[-1] == "round 3 of 3"


def test_the_command(url: str, exported_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "served.json"
    file = exported_run / "model.onnx"
    done = zoo(file, "--serve", url, "--seconds", 0.1, "--json", "--out", out, "--no-noise-floor")
    assert done.returncode == 0, done.stderr
    assert "server / bare session: rate" in done.stderr and "load generator:" in done.stderr
    assert "noise floor" not in done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(out.read_text())
    assert found["callers"] == 1 and found["noise_floor"] == {} and found["p50_ratio"] is not None


def test_rejected_requests_are_counted_and_sent_again(exported_run: Path, plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    file = exported_run / "model.onnx"
    with serving(file, "--queue", "0", "--latency", "--token-file", str(tmp_path / "token")) as address:
        report = bench_served(
            file, address, callers=16, seconds=0.01, rounds=2, token=TOKEN, noise_floor=False, plugins=plugins
        )
        assert report.workers == 1 and report.bare_threads == 1
        assert report.calls == 2 * 32 and report.rejected > 0
        assert report.rejected_share == report.rejected / (report.rejected + report.calls)
        assert report.rejected_p99 is not None
        with pytest.raises(ZooError, match="401: this server needs a token"):
            bench_served(file, address, plugins=plugins)


def test_another_file_is_refused(url: str, exported_run: Path, plugins: Plugins, tmp_path: Path) -> None:
    file = Path(shutil.copy(exported_run / "model.onnx", tmp_path))
    with file.open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(ZooError, match="the server runs another file: its `model` has SHA-256"):
        bench_served(file, url, plugins=plugins)


def test_what_is_no_photograph_is_refused_by_name(
    url: str, exported_run: Path, plugins: Plugins, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no photograph")
    with pytest.raises(ZooError, match="the server answers `/predict` with 4"):
        bench_served(exported_run / "model.onnx", url, [tmp_path / "text.jpg"], plugins=plugins)


def test_what_cannot_be_reached(exported_run: Path, plugins: Plugins) -> None:
    file = exported_run / "model.onnx"
    for bad in ("127.0.0.1:8080", "ftp://a", "http://", "http://a:99999", "http://u:p@a", "http://a/?b"):
        with pytest.raises(UsageError, match="not the address of a server"):
            bench_served(file, bad, plugins=plugins)
    with pytest.raises(ZooError, match="cannot be reached"):
        bench_served(file, "http://127.0.0.1:9", plugins=plugins)


class Other(http.server.BaseHTTPRequestHandler):
    """A server of another kind, which closes its connections."""

    body = b"{}"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_another_server_is_told_from_ours(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Other, "protocol_version", protocol)
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(ZooError, match=r"is no `zoo serve`|not that of `zoo serve`"):
            LoadGenerator().open(f"http://127.0.0.1:{server.server_port}", [str(tmp_path / "a.jpg")], "model", None)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_requests_name_host_path_and_token() -> None:
    request = Address("http://example.org:8000/models/", "word").request("POST", "/predict", b"abc")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /models/predict HTTP/1.1",
        b"Host: example.org:8000",
        b"Authorization: Bearer word",
        b"Content-Length: 3",
    ]
    assert body == b"abc"
    assert [Address(f"http://{host}").is_here for host in ("127.0.0.2", "[::1]", "localhost", "a")] == [True] * 3 + [
        False
    ]


def test_the_share_is_of_rates() -> None:
    bare = np.array([1.0, 2.0, 1.0, 2.0])
    equal, half = rate_share(bare, bare), rate_share(2 * bare, bare)
    assert (equal.value, equal.low, equal.high) == (1.0, 1.0, 1.0)  # paired by round, so its spread cancels
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--serve", "http://a", "--batch-size", "4"), "`--batch-size` has no effect with `--serve`"),
        (("--serve", "http://a", "--plot", "a.svg"), "`--plot` has no effect with `--serve`"),
        (("--token-file", "a"), "`--token-file` needs `--serve`"),
    ],
)
def test_options_without_effect_are_refused(arguments: tuple[str, ...], message: str, exported_run: Path) -> None:
    done = zoo(exported_run / "model.onnx", *arguments)
    assert done.returncode == 2 and message in done.stderr
