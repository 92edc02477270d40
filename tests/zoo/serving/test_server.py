"""The server as processes: start, drain, signals, crashes, and what stops it from starting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from serving_processes import ZOO, Load, Server
from serving_support import new_version, read_answer, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture
def file(exported_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx"))


@pytest.fixture
def start(tmp_path: Path, file: Path) -> Iterator[Any]:
    started: list[Server] = []

    def starter(*options: str) -> Server:
        started.append(Server(tmp_path / f"log{len(started)}", file, *options))
        return started[-1]

    yield starter
    for one in started:
        if one.process.poll() is None:
            child = one.child()
            one.process.kill()
            one.process.wait()
            with contextlib.suppress(ProcessLookupError):
                if child:
                    os.kill(child, signal.SIGKILL)


def test_sigterm_loses_nothing(start: Any) -> None:
    server = start("--drain", "0.5")
    load = Load(server.address)
    until(lambda: load.answered > 20)
    server.process.terminate()
    until(lambda: "stopping" in server.said())
    assert server.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: s\r\n\r\n") == (503, {"ready": False})
    assert server.ends() == 0
    load.stop()
    assert not load.lost
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, 100)


def test_a_second_signal_ends_it_at_once(start: Any) -> None:
    server = start("--drain", "1000")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in server.said())
    assert server.predict()["label"]
    server.process.terminate()
    assert server.ends() == 1 and "stopped at once" in server.said()


def test_ctrl_c_in_a_terminal_drains(start: Any) -> None:
    """The terminal signals all processes of the command; they must not count it twice."""
    server = start("--drain", "1000")  # nobody in front of a terminal waits for a balancer
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.ends() == 0
    assert "stopping" in server.said() and "at once" not in server.said()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_crashes_swaps_and_a_killed_supervisor(start: Any, file: Path) -> None:
    server = start("--watch", "0")
    digest = server.predict()["digest"]
    for number in (signal.SIGSEGV, signal.SIGKILL):
        crashed = server.child()
        os.kill(crashed, number)
        assert server.predict()["digest"] == digest  # it waits until the server is there again
        assert server.child() != crashed and f"died ({number.name}) and is started again" in server.said()
    assert server.said().count("serving again on") == 2

    server.process.send_signal(signal.SIGHUP)
    until(lambda: "the file is the one that is served" in server.said())
    new_version(file, file, lambda model: setattr(model, "doc_string", "another"))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "now " in server.said())
    assert server.predict()["digest"] != digest
    assert 'zoo_swaps_total{model="model",outcome="done"} 1.0' in server.metrics()
    digest = server.predict()["digest"]
    file.write_bytes(file.read_bytes()[:-1])
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "is refused" in server.said())
    assert server.predict()["digest"] == digest

    child = server.child()
    server.process.kill()  # the server process notices, and stops as it does for SIGTERM
    server.process.wait()
    until(lambda: "stopping" in server.said())
    assert server.predict()["digest"] == digest
    until(lambda: not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text())


def has_child(process: subprocess.Popen[bytes]) -> bool:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return process.poll() is not None or not children.exists() or bool(children.read_text())


def test_sighup_while_it_starts_does_not_end_it(tmp_path: Path, file: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*ZOO, "serve", str(file), "--port", "0", "--drain", "0"], stderr=stderr)
    try:
        until(
            lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() or process.poll() is not None
        )
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        until(lambda: "the file is the one that is served" in log.read_text() or process.poll() is not None)
        process.terminate()
        assert process.wait(200) == 0
    finally:
        process.kill()


def test_sigterm_while_it_starts_ends_it(tmp_path: Path, file: Path) -> None:
    process = subprocess.Popen([*ZOO, "serve", str(file), "--port", "0"], stderr=subprocess.PIPE)
    until(lambda: has_child(process))
    process.terminate()
    assert b"Traceback" not in process.communicate(timeout=200)[1]
    assert process.returncode == 0


# what stops it from starting

HEAVY = ("numpy", "onnxruntime", "onnx", "PIL", "torch", "uvicorn", "starlette", "zoo.serving.server")


def refused(options: Sequence[str], missing: str = "") -> tuple[int, str]:
    """The exit status of `zoo serve` and what it says; nothing heavy was imported."""
    code = f"""
import sys
if {missing!r}: sys.modules[{missing!r}] = None
from zoo_cli.main import run
status = run(["serve", *sys.argv[1:]])
print([name for name in {HEAVY!r} if sys.modules.get(name) is not None])
sys.exit(status)
"""
    found = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=200)
    assert found.stdout == "[]\n", found
    return found.returncode, found.stderr


def said(options: Sequence[str], *words: str, missing: str = "") -> None:
    status, told = refused(options, missing)
    lines = [line for line in told.splitlines() if line]
    assert status == 1 and len(lines) == 2, told
    assert lines[0].startswith("Error: ") and lines[1].startswith("hint: "), told
    for word in words:
        assert word in told


def test_a_missing_file(tmp_path: Path) -> None:
    said([str(tmp_path / "none.onnx")], "none.onnx` is not there", "zoo export")
    said([str(tmp_path)], "is a folder")


def test_a_port_that_is_taken_and_a_host_that_is_not_here(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said([str(file), "--port", str(taken.getsockname()[1])], "in use", "--port")
    said([str(file), "--host", "192.0.2.1", "--port", "0"], "192.0.2.1", "--host")
    said([str(file), "--host", "a..b"], "no host name", "--host")


def test_a_token_file(file: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    said([str(file), "--token-file", str(token)], "no such file", "openssl")
    for content, why in ((b"", "is empty"), (b" \n", "is empty"), (b"two words", "spaces"), (b"\xff", "not UTF-8")):
        token.write_bytes(content)
        said([str(file), "--token-file", str(token)], why, "openssl")
    said([str(file), "--token-file", str(tmp_path)], "directory")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "httptools", "prometheus_client"])
def test_a_missing_package(file: Path, package: str) -> None:
    said([str(file)], package, "pip install", missing=package)


def test_a_file_that_is_damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
    found = subprocess.run([*ZOO, "serve", str(file), "--port", "0"], capture_output=True, text=True, timeout=200)
    assert found.returncode == 1 and found.stderr.startswith("Error: ") and "Traceback" not in found.stderr
    assert len([line for line in found.stderr.splitlines() if line]) <= 2


def test_two_files_of_one_name(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.onnx"
    other.parent.mkdir()
    shutil.copy(file, other)
    status, told = refused([str(file), str(other)])
    assert status == 2 and "have the same name" in told


def test_ctrl_c_while_it_starts_shows_no_traceback(tmp_path: Path, file: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*ZOO, "serve", str(file), "--port", "0"], stderr=stderr, start_new_session=True)
    until(lambda: has_child(process))
    process.send_signal(signal.SIGINT)
    process.wait(200)
    assert "Traceback" not in log.read_text()


def test_closed_standard_files_do_not_stop_it(tmp_path: Path, file: Path) -> None:
    """As some service managers start programs; the numbers of the files must not go to sockets."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [*ZOO, "serve", str(file), "--port", str(port), "--drain", "0"]
    process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], start_new_session=True)

    def answers() -> bool:
        if process.poll() is not None:
            return True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 100) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: s\r\n\r\n")
            return read_answer(connection)[0] == 200
        return False

    try:
        until(answers)
        assert process.poll() is None
        process.terminate()
        assert process.wait(200) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("option", ["--drain", "--watch", "--deadline", "--shadow-share"])
def test_numbers_that_are_not_finite(file: Path, option: str, number: str) -> None:
    status, told = refused([str(file), option, number])
    assert status == 2 and f"`{option}`" in told and "Traceback" not in told


def test_options_that_would_have_no_effect(file: Path) -> None:
    for options, word in (
        (["--shadow-share", "0.5"], "`--shadow-share` needs `--shadow`"),
        (["--allow-origin", "*"], "`*` is not the origin of a web page"),
        (["--allow-origin", "https://a.org/"], "pass `https://a.org`"),
    ):
        status, told = refused([str(file), *options])
        assert status == 2 and word in told


def test_a_name_with_a_line_break_is_told_in_one_line(tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.onnx"
    odd.write_bytes(b"")
    status, told = refused([str(odd)])
    assert status == 2 and len([line for line in told.splitlines() if line]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="gives a process a terminal as Linux does")
@pytest.mark.parametrize("by_nohup", [False, True])
def test_a_server_ends_with_its_terminal_unless_it_was_started_by_nohup(
    tmp_path: Path, file: Path, by_nohup: bool
) -> None:
    import fcntl
    import pty
    import termios

    ours, its = pty.openpty()
    log = tmp_path / "log"

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        # else as the tests may have been started themselves
        signal.signal(signal.SIGHUP, signal.SIG_IGN if by_nohup else signal.SIG_DFL)

    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*ZOO, "serve", str(file), "--port", "0", "--watch", "0", "--drain", "1000"],
            stdin=its,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
    os.close(its)
    try:
        until(lambda: "serving on" in log.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGHUP)  # of a terminal that is still there
        until(lambda: "the file is the one that is served" in log.read_text())
        os.close(ours)
        if by_nohup:
            until(lambda: log.read_text().count("the file is the one that is served") == 2)
            process.send_signal(signal.SIGINT)
        assert process.wait(200) == 0 and "stopping" in log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("host", ["[::1]", "http://localhost", "127.0.0.1:8080"])
def test_a_host_that_is_more_than_a_host(file: Path, host: str) -> None:
    said([str(file), "--host", host, "--port", "0"], "`--host` is a name or an address alone")
