"""`zoo predict`: one row for each photograph as soon as it is known, in a form that every reader takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from messages import refused, unsaid
from PIL import Image
from tests_support import COLOURS, paint

from zoo import UsageError
from zoo.inference.prediction import find_photographs
from zoo.latency.measurement import kind_of
from zoo.plugin import Plugins
from zoo_cli.main import run

FOREIGN = '{"name": "of another program"}'
NEWER = '{"schema": 99}'


def zoo(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def file(exported_run: Path, tmp_path: Path) -> Path:
    (tmp_path / "ship").mkdir()
    return Path(shutil.copy(exported_run / "model.onnx", tmp_path / "ship/model.onnx"))


@pytest.mark.parametrize("stray", [FOREIGN, NEWER, "[]", "{"])
def test_what_lies_beside_a_file_does_not_matter(
    capsys: pytest.CaptureFixture[str], file: Path, two_splits: Path, stray: str
) -> None:
    photograph = two_splits / "val/red/000.jpg"
    expected = zoo(capsys, "predict", file, photograph)
    (file.parent / "run.json").write_text(stray)
    assert zoo(capsys, "predict", file, photograph) == expected
    code, out, err = zoo(capsys, "evaluate", file, "--data", two_splits, "--json")
    assert (
        code == 0 and json.loads(out)["fitted_on"] is None and not unsaid(err, "warning", "without a run", "run.json`")
    )
    assert zoo(capsys, "verify", file)[0] == 0


def test_a_suffix_in_capitals(
    capsys: pytest.CaptureFixture[str], file: Path, two_splits: Path, plugins: Plugins
) -> None:
    capitals = file.rename(file.with_name("M.ONNX"))
    assert zoo(capsys, "predict", capitals, two_splits / "val/red/000.jpg")[0] == 0
    assert kind_of(capitals, plugins) == "onnx"


def test_rows_are_those_of_the_photographs(
    capsys: pytest.CaptureFixture[str], file: Path, two_splits: Path, tmp_path: Path
) -> None:
    broken, good = tmp_path / "broken.jpg", two_splits / "val/red/000.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0")
    asked = [good, broken, good, *sorted((two_splits / "val/blue").iterdir()), broken]
    code, out, err = zoo(capsys, "predict", file, *asked, "--json")
    rows = json.loads(out)
    assert code == 1 and [row["path"] for row in rows] == [str(path) for path in asked]
    assert out == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    for path, row in zip(asked, rows):
        assert ("error" in row) == (path == broken) == (row["label"] is None)
    assert err.count("warning") == 2 and "broken.jpg" in rows[1]["error"]
    code, out, err = zoo(capsys, "predict", file, broken, "--json")
    assert code == 1 and len(json.loads(out)) == 1 and not unsaid(err, "none", "decoded")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_doubtful_photograph_is_classified_and_named(
    capsys: pytest.CaptureFixture[str], form: list[str], file: Path, two_splits: Path, tmp_path: Path
) -> None:
    cut, dark = tmp_path / "cut.jpg", tmp_path / "dark.png"
    cut.write_bytes((two_splits / "val/red/000.jpg").read_bytes()[:-2])
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(dark)
    code, out, err = zoo(capsys, "predict", file, cut, dark, *form)
    assert code == 0 and out.count("cut.jpg") == 1 == out.count("dark.png") and "error" not in out
    assert not unsaid(err, "cut.jpg", "last bytes", "dark.png", "--levels 0 4095") and err.count("warning") == 1
    code, _, err = zoo(capsys, "predict", file, dark, "--levels", "0", "4095", *form)
    assert code == 0 and not unsaid(err, "4,095") and "warning" not in err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_more_classes_than_there_are(
    capsys: pytest.CaptureFixture[str], form: list[str], file: Path, two_splits: Path
) -> None:
    photographs = [two_splits / "val/red/000.jpg", two_splits / "val/red/001.jpg"]
    code, out, err = zoo(capsys, "predict", file, *photographs, "--top", "99", *form)
    assert code == 0 and err.count("--top 99") == 1 and not unsaid(err, "2 classes")
    assert out == zoo(capsys, "predict", file, *photographs, "--top", "2", *form)[1]
    assert "--top" not in zoo(capsys, "predict", file, *photographs, "--top", "2")[2]


def test_preprocessing_of_a_file_that_zoo_wrote(
    capsys: pytest.CaptureFixture[str], file: Path, two_splits: Path
) -> None:
    code, out, err = zoo(capsys, "predict", file, two_splits / "val/red/000.jpg", "--preprocess", "resnet18")
    assert code == 2 and out == "" and not unsaid(err, "model.onnx`", "--preprocess")


def test_names_that_spoil_rows(file: Path, tmp_path: Path) -> None:
    names = [b"a\tb.png", b"c\nd.png", b"e\x1b[31m.png", b"\xff\xfe.png", "é\u2028f.png".encode()]
    photographs = [tmp_path / os.fsdecode(name) for name in names]
    for photograph in photographs:
        paint(COLOURS["red"], 0).save(photograph)

    def printed(*options: str) -> bytes:
        command = [sys.executable, "-m", "zoo_cli.main", "predict", str(file), *map(str, photographs), *options]
        strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in a session with any locale but C
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=strict).stdout

    rows = json.loads(printed("--json"))
    assert [row["path"] for row in rows] == [str(photograph) for photograph in photographs]
    lines = printed().split(b"\n")[:-1]
    assert [line.count(b"\t") for line in lines] == [2] * len(names) and not any(b"\x1b" in line for line in lines)
    assert rb"a\tb.png" in lines[0] and b"\xff\xfe.png" in lines[3]


@pytest.mark.parametrize("text", ["https://example.org/a.jpg", "s3://photos/a.jpg", "-"])
def test_what_is_not_read_is_said(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with refused(UsageError, f"`{text}`", "files", "URL" if "://" in text else "standard input"):
        find_photographs([text])


def test_a_model_is_not_downloaded(capsys: pytest.CaptureFixture[str], two_splits: Path) -> None:
    for command in (["predict", "https://x.org/m.onnx", two_splits], ["evaluate", "https://x.org/m.onnx"]):
        code, _, err = zoo(capsys, *command)
        assert code == 2 and not unsaid(err, "`https://x.org/m.onnx`", "URL", "download")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_results_come_as_they_are_made(form: list[str], file: Path, two_splits: Path, tmp_path: Path) -> None:
    """The ninth photograph is a pipe that nobody writes to: the first eight are printed all the same."""
    photographs = [str(path) for path in sorted((two_splits / "train").rglob("*.jpg"))[:8]]
    os.mkfifo(tmp_path / "never.jpg")
    arguments = ["predict", str(file), *photographs, str(tmp_path / "never.jpg"), "--workers", "1", *form]
    command = [sys.executable, "-m", "zoo_cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "000.jpg" in line or line.lstrip().startswith(('"path"', str(two_splits)))
            if seen == 8:
                break
        process.kill()
    assert seen == 8


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_doubtful_photographs_are_classified_and_named(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, flags: list[str]
) -> None:
    """Grey levels of 12 bits in 16, and a JPEG without its end: there is a result, and a line that says the doubt."""
    dark = tmp_path / "dark.png"
    Image.fromarray(np.full((40, 40), 900, np.uint16)).save(dark)
    code, out, err = zoo(capsys, "predict", file, dark, *flags)
    assert code == 0 and out.count("dark.png") == 1 and not unsaid(err, "warning", "dark.png", "nearly black")
