"""onnxruntime-web: a file predicts in WebAssembly what it predicts elsewhere; what is absent is said in one line.

Tests marked `with_package` need node, and the npm package where `ZOO_ONNXRUNTIME_WEB` or `node_modules` says.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from chromium import browser, in_chromium
from docs_pages import ROOT, blocks_of
from messages import refused
from PIL import Image
from small_export import CLASSES, SmallNet, small_spec

from zoo.errors import UsageError, ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden_inputs import golden_photographs
from zoo.latency.measurement import bench
from zoo.runtime import PHOTOGRAPH, Workload
from zoo_cli.main import run
from zoo_onnx.session import open_file
from zoo_runtimes import node_package
from zoo_runtimes.node_package import FOLDER, PACKAGE, find_installation
from zoo_runtimes.node_process import NodeProcess
from zoo_runtimes.onnxruntime import load_cpu
from zoo_runtimes.onnxruntime_web import load_web, open_web


def _is_here() -> bool:
    try:
        find_installation()
    except ZooError:
        return False
    return True


with_package = pytest.mark.skipif(not _is_here(), reason="node or onnxruntime-web is absent")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zoo_onnx.write import write

    spec: ExportSpec = small_spec(tmp_path_factory.mktemp("web") / "small.onnx", model=SmallNet())
    write(spec)
    return spec.file


def fake_node(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program `node` on the PATH, and a package that it may import."""
    program = folder / "node"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    fake_package(folder / "node_modules" / PACKAGE)
    monkeypatch.setenv(FOLDER, str(folder))


def fake_package(folder: Path, name: str = PACKAGE) -> Path:
    folder.mkdir(parents=True)
    exports = {".": {"node": {"import": "./node.mjs"}}}
    (folder / "package.json").write_text(json.dumps({"name": name, "exports": exports}))
    (folder / "node.mjs").write_text("")
    return folder


@with_package
def test_a_file_predicts_what_onnxruntime_does(file: Path) -> None:
    shown = list(golden_photographs().values())
    found = open_web(file, "auto")
    assert found.classes == CLASSES and found.device.startswith(f"{PACKAGE} ") and "WebAssembly" in found.device
    np.testing.assert_allclose(found.logits(shown), open_file(file, "cpu").logits(shown), rtol=1e-3, atol=1e-3)
    with refused(UsageError, "onnxruntime-web", "`cuda`"):
        open_web(file, "cuda")


@with_package
@pytest.mark.parametrize("with_preprocess", [False, True])
def test_a_session_computes_what_the_session_of_onnxruntime_does(file: Path, with_preprocess: bool) -> None:
    work = Workload(target=file, with_preprocess=with_preprocess)
    session = load_web(work)
    assert session.input == load_cpu(work).input
    shape = (2, *PHOTOGRAPH, 3) if with_preprocess else (2, 3, 32, 32)
    batch = np.random.default_rng(0).integers(0, 255, shape).astype(session.input.dtype)
    calls = [session.prepare(batch), session.prepare(batch)]
    assert [call() for call in calls] == [None, None]
    expected = load_cpu(work).prepare(batch)()
    found = session._node.run(session._outputs, session._name, batch)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-3)  # type: ignore[index]


@with_package
def test_verify_tells_what_it_predicts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(file), "--runtime", "onnxruntime-web", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[-1]["name"] == "golden inputs on onnxruntime-web" and PACKAGE in checks[-1]["detail"]


@with_package
def test_bench_measures_it_where_it_is_named(file: Path) -> None:
    named = bench(
        file, runtimes=["onnxruntime-web"], batch_sizes=1, seconds=0.05, rounds=5, noise_floor=False, threads=1
    )
    (outcome,) = named.measured
    assert outcome.provider.startswith(PACKAGE) and "under node" in " ".join(outcome.notes)
    # a process of Python alone takes some 100 MiB, that of node as much again
    memory = outcome.measurements[0].memory
    assert memory is not None and memory > 150 * 2**20


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


@with_package
@in_chromium
def test_the_page_of_the_documentation_classifies_as_the_file_does(file: Path, tmp_path: Path) -> None:
    (page,) = (one for one in blocks_of(ROOT / "docs/how-to/deploy-in-a-browser.md") if one.title == "index.html")
    (tmp_path / "index.html").write_text(page.text.replace("runs/first/model.onnx", "model.onnx"))
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    (tmp_path / "model.onnx").write_bytes(file.read_bytes())
    (tmp_path / "node_modules").symlink_to(find_installation().package.parent)
    photograph = golden_photographs()["landscape"]
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    shares = open_file(file, "cpu").session.run(["probabilities"], {"photographs": photograph[None]})[0][0]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with browser(tmp_path / "profile") as tab:
                tab.open(f"http://127.0.0.1:{server.server_port}/index.html")
                tab.wait("document.body.innerText.includes('choose a photograph')")
                tab.choose_files("#file", tmp_path / "photo.png")
                tab.wait("document.body.innerText.includes('%')")
                assert tab.text().strip() == f"{CLASSES[shares.argmax()]} ({100 * shares.max():.1f} %)"
                assert not [one for one in tab.problems if "favicon" not in one and "404" not in one]
        finally:
            server.shutdown()


@with_package
def test_what_cannot_be_opened_is_one_line() -> None:
    with refused(ZooError, "onnxruntime-web cannot open the model", "ERROR_CODE"):
        NodeProcess(b"no model", 1)


def test_another_engine_must_give_the_golden_logits(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is of the runtime's own predictions: one that is off fails, though the file is whole."""
    from zoo_onnx.session import OnnxPredictor

    assert run(["verify", str(file), "--runtime", "openvino"]) == 0
    assert "golden inputs on openvino" in capsys.readouterr().err
    plain = OnnxPredictor.answers
    asked: list[str] = []

    def off(self: OnnxPredictor, photographs: object) -> object:
        answers = plain(self, photographs)  # type: ignore[arg-type]
        asked.append(self.device)
        return answers._replace(logits=answers.logits + (0.5 if len(asked) > 9 else 0.0))  # after those of the file

    monkeypatch.setattr(OnnxPredictor, "answers", off)
    assert run(["verify", str(file), "--runtime", "onnxruntime-cpu", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks if not check["passed"]] == ["golden inputs on onnxruntime-cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtime", "torch-eager"], ("torch-eager", "onnxruntime-cpu onnxruntime-cuda onnxruntime-web openvino")),
        (["--runtime", "onnxruntime-tensorrt"], ("onnxruntime-tensorrt", "cannot check")),
        (["--runtime", "openvino", "--device", "cuda"], ("openvino", "cpu", "`cuda`")),
        (["--runtime", "webgpu"], ("unknown runtime", "`webgpu`")),
    ],
)
def test_runtimes_that_cannot_verify_are_refused(
    file: Path, words: list[str], said: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(file), *words]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in said), err


def test_without_node_the_message_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ZooError, "node is not on the PATH", "Node.js", f"npm install {PACKAGE}"):
        find_installation()


def test_without_the_package_the_message_has_the_command(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_node(tmp_path, "exit 0", monkeypatch)
    monkeypatch.setenv(FOLDER, str(tmp_path / "elsewhere"))
    with refused(ZooError, "elsewhere`", FOLDER, f"npm install {PACKAGE}"):
        find_installation()
    assert run(["verify", str(file), "--runtime", "onnxruntime-web"]) == 1
    err = capsys.readouterr().err
    assert "not available" in err and f"npm install {PACKAGE}" in err


def test_the_package_is_found_here_or_above_or_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_node(tmp_path, "exit 0", monkeypatch)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    package = tmp_path / "node_modules" / PACKAGE
    for given in (tmp_path, package):
        monkeypatch.setenv(FOLDER, str(given))
        assert find_installation().package == package
    monkeypatch.delenv(FOLDER)
    monkeypatch.chdir(inner)
    assert find_installation().package == package
    fake_package(inner / "node_modules" / PACKAGE, name="another")  # passed over
    assert find_installation().package == package


ANSWERS = '[ "$1" = --version ] && { echo v22.1.0; exit 0; }\n'  # a fake that is Node.js by its own account


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            f"{ANSWERS}echo 'SyntaxError: damaged' >&2; exit 7",
            ("node ended with status 7: SyntaxError: damaged", PACKAGE),
        ),
        (f"{ANSWERS}kill -9 $$", ("ended by signal 9", "memory")),
        ("echo v12.22.9", ("is Node.js 12.22.9, which is too old", str(node_package.OLDEST_NODE))),
        ("echo hello; cat", ("is not Node.js", "says hello")),  # another program of the name, which reads its input
        ("echo broken >&2; exit 1", ("is not Node.js", "says broken")),
        ("sleep 30", ("gave no answer", "node --version")),
    ],
    ids=["ends", "killed", "old", "other", "broken", "hangs"],
)
def test_a_node_that_ends_or_is_another_program_is_one_line(
    script: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node_package, "VERSION_SECONDS", 0.5 if script.startswith("sleep") else 60)
    fake_node(tmp_path, script, monkeypatch)
    with refused(ZooError, *words):
        NodeProcess(b"model", 1)


def test_a_node_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_node(tmp_path, "", monkeypatch)
    (tmp_path / "node").write_text("#!/no/such/interpreter\n")
    with refused(ZooError, "cannot be started", "Node.js"):
        NodeProcess(b"model", 1)


def test_bench_leaves_it_out_unless_it_is_named(file: Path) -> None:
    report = bench(file, batch_sizes=1, seconds=0.05, rounds=5, noise_floor=False, threads=1)
    assert "runtimes/onnxruntime-web" not in {outcome.runtime for outcome in report.outcomes}
    assert "runtimes/onnxruntime-cpu" in {outcome.runtime for outcome in report.outcomes}
