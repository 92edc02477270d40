"""Paths that are no text, users that do not exist, and streams that a scheduler closed: a line, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests_support import make_photos

from zoo_cli.main import run

SMALL = ["--backbone", "timm/test_resnet", "--weights", "none", "--strategy", "linear", "--image-size", "32"]
LATIN = os.fsdecode(b"caf\xe9")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(list(arguments))
    return code, capsys.readouterr().err


def test_a_data_folder_whose_name_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_photos(tmp_path / LATIN, {"train": 2, "val": 2})
    for command in ("plan", "train"):
        out = ["--out", str(tmp_path / "run")] if command == "train" else []
        code, err = said(capsys, command, *SMALL, "--data", str(tmp_path / LATIN), *out)
        assert code == 2 and "`--data`" in err and "\\udce9" in err and "hint: rename" in err
    assert not (tmp_path / "run").exists()


def test_a_run_folder_whose_name_is_no_text(
    tmp_path: Path, two_splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = said(capsys, "train", *SMALL, "--data", str(two_splits), "--out", str(tmp_path / LATIN))
    assert code == 2 and "`--out`" in err and "not valid UTF-8" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", *SMALL, "--data", "~nosuchuser/x"],
        ["plan", *SMALL, "--data", "folder:~nosuchuser/x"],
        ["train", *SMALL, "--data", "locked:~nosuchuser/x"],
        ["train", *SMALL, "--data", "DATA", "--out", "~nosuchuser/x"],
        ["plan", "--backbone", "timm/test_resnet", "--strategy", "linear", "--weights", "~nosuchuser/x.safetensors"],
        ["predict", "RUN", "~nosuchuser/x.jpg"],
        ["export", "RUN", "--out", "~nosuchuser/x.onnx"],
        ["report", "RUN", "--out", "~nosuchuser/x.html"],
    ],
)
def test_the_home_of_nobody(
    arguments: list[str], exported_run: Path, two_splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_for = {"RUN": str(exported_run), "DATA": str(two_splits)}
    code, err = said(capsys, *(stand_for.get(one, one) for one in arguments))
    assert code == 2 and err.startswith("Error: ") and "no user `nosuchuser`" in err and "hint: " in err


def test_the_home_of_nobody_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", "~nosuchuser/cache")
    code, err = said(capsys, "cache")
    assert code == 2 and "no user `nosuchuser`" in err


@pytest.mark.skipif(os.name == "nt", reason="needs a shell of Unix")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_change_nothing(closed: str, tmp_path: Path) -> None:
    """All is done and the exit code says so; the descriptor is not given to a file, which others then write into."""
    program = (
        "import os, sys\n"
        "from zoo_cli.main import open_streams, run\n"
        "open_streams()\n"
        "code = run(['list', 'strategies', '--json'])\n"
        "print('to stdout'); print('to stderr', file=sys.stderr)\n"
        f"file = open({str(tmp_path / 'written')!r}, 'w')\n"
        "file.write(f'{code} {file.fileno() > 2} {[os.fstat(number) is not None for number in range(3)]}')\n"
    )
    shell = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(["sh", "-c", shell, sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "written").read_text() == "0 True [True, True, True]"
    command = subprocess.run(
        ["sh", "-c", f'exec "$0" -m zoo_cli.main list strategies {closed}', sys.executable], capture_output=True
    )
    assert command.returncode == 0 and b"Traceback" not in command.stderr


def test_a_name_that_is_no_text_is_printed_as_it_is(exported_run: Path, tmp_path: Path, two_splits: Path) -> None:
    photo = tmp_path / f"{LATIN}.jpg"
    photo.write_bytes(next(two_splits.rglob("*.jpg")).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "zoo_cli.main", "predict", str(exported_run), str(photo)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0 and done.stdout.startswith(os.fsencode(photo) + b"\t")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell of Unix")
def test_a_reader_that_goes_away(exported_run: Path, two_splits: Path) -> None:
    """`| head` ends a command of data without a word, and never blames a plugin."""
    command = [sys.executable, "-m", "zoo_cli.main", "predict", str(exported_run), str(two_splits)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe of Unix")
@pytest.mark.parametrize("lost", ["full", "gone"])
def test_messages_that_cannot_be_written_end_nothing(lost: str) -> None:
    """Hours of training must not be lost because the reader of its messages is gone, or the disk of a log is full."""
    program = (
        "import os, sys\n"
        "from rich.console import Console\n"
        "from zoo_cli.main import open_streams\n"
        "open_streams()\n"
        "for number in range(3):\n"
        "    Console(stderr=True).print('epoch', number); print('more', file=sys.stderr, flush=True)\n"
        "os.write(2, b'a C library')\n"
        "print('done')\n"
    )
    if lost == "full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    read, write = os.pipe()
    os.close(read)
    log = write if lost == "gone" else os.open("/dev/full", os.O_WRONLY)
    program = program.replace("os.write(2, b'a C library')\n", "") if lost == "full" else program
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=log)
    os.close(log)
    if log != write:
        os.close(write)
    assert done.returncode == 0 and done.stdout == b"done\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_letters(encoding: str, exported_run: Path, tmp_path: Path, two_splits: Path) -> None:
    """JSON stays JSON, with the same names; a line has an escape in place of the letter."""
    photo = tmp_path / "caf\xe9 \u87fb \U0001f41c.jpg"
    photo.write_bytes(next(two_splits.rglob("*.jpg")).read_bytes())
    found = []
    for flags in (["--json"], []):
        file = str(exported_run / "model.onnx")  # which needs no torch
        command = ["-m", "zoo_cli.main", "predict", file, str(photo), *flags]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
        )
        assert (done.returncode, done.stderr) == (0, b"")
        found.append(done.stdout)
    assert json.loads(found[0].decode("ascii"))[0]["path"] == str(photo)
    assert b"\\u87fb" in found[1]
