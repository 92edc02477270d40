"""The command line: exit codes, one clear line and a hint, data on stdout and the rest on stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import unsaid
from tests_support import make_photos

from zoo import Run
from zoo_cli.main import run

TINY = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--epochs", "2"]


def zoo(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def trained(exported_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_run, tmp_path / "trained", ignore=shutil.ignore_patterns("model.onnx")))


@pytest.fixture
def exported(exported_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx"))


def test_train_prints_the_folder_and_its_figures(
    capsys: pytest.CaptureFixture[str], two_splits: Path, tmp_path: Path
) -> None:
    code, out, err = zoo(
        capsys, "train", "--data", two_splits, *TINY, "--strategy", "linear", "--out", tmp_path / "run"
    )
    assert (code, out.strip()) == (0, str(tmp_path / "run"))
    assert "epoch   2 linear" in err and "val accuracy" in err and "95 % interval" in err
    code, out, err = zoo(
        capsys, "train", "--data", two_splits, *TINY, "--strategy", "linear", "--out", tmp_path / "b", "--json"
    )
    assert json.loads(out)["status"] == "finished"


def test_evaluate_predict_and_compare(capsys: pytest.CaptureFixture[str], trained: Path, two_splits: Path) -> None:
    code, out, err = zoo(capsys, "evaluate", trained)
    assert code == 0 and out == "" and "f1_macro" in err and "predicted" in err
    code, out, _ = zoo(capsys, "evaluate", trained, "--split", "train", "--json")
    assert code == 0 and json.loads(out)["images"] == 24
    code, out, _ = zoo(capsys, "predict", trained, two_splits / "val", "--top", "2")
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and len(lines) == 12 and all(len(line) == 5 for line in lines)
    code, out, _ = zoo(capsys, "predict", trained, str(two_splits / "val/red/*.jpg"), "--json")
    assert code == 0 and len(json.loads(out)) == 6
    code, out, err = zoo(capsys, "compare", trained, trained)
    assert code == 0 and out == "" and "timm/test_resnet" in err
    found = json.loads(zoo(capsys, "compare", trained, trained, "--json")[1])
    assert len(found["runs"]) == 2 and found["comparison"] is None  # one way to train, whatever it is called twice


def test_the_cache_is_shown_and_cleared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from zoo.storage.tensor_store import Store

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert Store().write({"a": 1}, {"0": torch.zeros(1000)}) is not None
    code, _, err = zoo(capsys, "cache")
    assert code == 0 and f"{tmp_path / 'store'}: 1 entry, 4 KiB of 20.0 GiB" in err
    code, out, _ = zoo(capsys, "cache", "--clear", "--json")
    told = json.loads(out)
    assert code == 0 and told["cleared"] and told["entries"] == 1 and told["bytes"] > 4000
    assert Store().usage().entries == 0
    monkeypatch.setenv("ZOO_CACHE_BUDGET", "a lot")
    code, _, err = zoo(capsys, "cache")
    assert code == 2 and "`ZOO_CACHE_BUDGET=a lot`" in err
    monkeypatch.delenv("ZOO_CACHE_BUDGET")
    (tmp_path / "file").write_text("not a folder")
    for wrong in (tmp_path / "file", tmp_path / "file/below"):
        monkeypatch.setenv("ZOO_CACHE", str(wrong))
        for option in ([], ["--clear"], ["--json"]):
            code, out, err = zoo(capsys, "cache", *option)
            assert code == 2 and out == "" and f"`{wrong}`" in err and "hint: set `ZOO_CACHE`" in err
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "not/yet/there"))
    assert zoo(capsys, "cache")[0] == 0


def test_list_and_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = zoo(capsys, "list", "backbones", "test_resne*")
    assert code == 0 and "test_resnet" in err and "px" in err
    code, out, _ = zoo(capsys, "list", "backbones", "torchvision/resnet18", "--stages", "--json")
    names = [stage["name"] for stage in json.loads(out)[0]["stages"]]
    assert names == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    code, _, err = zoo(capsys, "list", "strategies")
    assert code == 0 and all(name in err for name in ("linear", "partial", "full", "scratch"))
    code, _, err = zoo(capsys, "plugins")
    assert code == 0 and "backbone-zoo" in err
    code, out, _ = zoo(capsys, "list", "metrics", "--json")
    better = {row["name"]: row["better"] for row in json.loads(out)}
    assert (better["accuracy"], better["loss"], better["ece"]) == ("higher", "lower", "lower")
    code, _, err = zoo(capsys, "list", "metrics", "loss")
    assert code == 0 and "lower" in err and "higher" not in err
    code, out, err = zoo(capsys, "list", "augmentations", "flip", "--options")
    assert (code, out, err.strip()) == (0, "", "no augmentation that matches has options")
    code, _, err = zoo(capsys, "list", "losses", "--options")
    assert code == 0 and "0 to 100" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words", "hint"),
    [
        (["trian"], 2, ("command", "`trian`"), "`train`"),
        (["train", "--strategi", "x"], 2, ("option", "`--strategi`"), "`--strategy`"),
        (["train"], 2, ("missing option", "`--data`"), "zoo train --help"),
        (["train", "--backbone", "inceptionv3"], 2, ("backbone", "`inceptionv3`"), "`inception_v3`"),
        (["train", "--strategy", "partail:2"], 2, ("strategy", "`partail`"), "`partial`"),
        (["train", "--strategy", "partial:99"], 2, ("`partial:99`", "99 stages", "5"), "partial:5"),
        (["train", "--strategy", "linear,depth=2"], 2, ("`linear`", "option", "`depth`"), "epochs lr norm"),
        (["train", "--data", "nowhere"], 2, ("`nowhere`", "folder", "dataset"), "zoo list datasets"),
        (["train", "--data", "./nowhere"], 2, ("folder", "nowhere`", "exist"), "train/CLASS"),
        (["train", "--device", "tpu"], 2, ("device", "`tpu`"), "cuda:N"),
        (["train", "--lr", "nan"], 2, ("`--lr nan`", "number"), "zoo train --help"),
        (["train", "--weights", "IMAGENET"], 2, ("`test_resnet`", "weights", "`IMAGENET`"), "default none"),
        (["train", "--weights", "./a.pth"], 2, ("a.pth`", "weights"), "--weights"),
        (["list", "backbones", "inceptio"], 2, ("backbone", "`inceptio`"), "inception_v3"),
        (["evaluate", "nowhere"], 2, ("run", "`nowhere`"), "zoo train"),
        (["export", "."], 2, ("`.`", "run"), "zoo train"),
        (["verify", "nothing.onnx"], 2, ("file", "`nothing.onnx`"), None),
        (["compare", "nowhere"], 2, ("`nowhere`", "run"), "zoo train"),
    ],
)
def test_mistakes_get_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str],
    two_splits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: tuple[str, ...],
    hint: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train" and arguments not in (["train"], ["train", "--strategi", "x"]):
        defaults = {"--data": str(two_splits), "--backbone": "timm/test_resnet", "--strategy": "linear", "--out": "run"}
        given = dict(zip(arguments[1::2], arguments[2::2]))
        weights = {} if "--weights" in given else {"--weights": "none"}
        arguments = ["train", *(word for pair in {**defaults, **weights, **given}.items() for word in pair)]
    found, out, err = zoo(capsys, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("Error: ") and not unsaid(err.splitlines()[0], *words)
    assert "Traceback" not in err
    if hint is not None:
        assert hint in err.split("hint: ")[1]
    assert list(tmp_path.iterdir()) == []


def test_data_mistakes_exit_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_photos(tmp_path / "one", {"train": 2, "val": 2}, ("red",))
    make_photos(make_photos(tmp_path / "missing", {"train": 2, "val": 2}), {"train": 2}, ("green",))
    for name, words in (
        ("empty", ("empty`", "photographs")),
        ("one", ("one`", "class", "`red`")),
        ("missing", ("`green`", "missing", "`val`")),
    ):
        code, _, err = zoo(
            capsys, "train", "--data", tmp_path / name, *TINY, "--strategy", "linear", "--out", tmp_path / "run"
        )
        assert code == 1 and not unsaid(err.splitlines()[0], *words) and "hint: " in err
    assert not (tmp_path / "run").exists()


def test_bad_images_are_listed_and_can_be_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = make_photos(tmp_path / "data", {"train": 4, "val": 2})
    (root / "train/red/000.jpg").write_text("a text")
    (root / "train/red/notfound.gif").write_bytes(b"GIF89a")
    arguments: list[str | Path] = ["train", "--data", root, *TINY, "--strategy", "linear", "--out", tmp_path / "run"]
    code, _, err = zoo(capsys, *arguments, "--on-bad-image", "fail")
    assert code == 1 and "train/red/000.jpg" in err and "train/red/notfound.gif" in err
    assert not (tmp_path / "run").exists()
    code, _, err = zoo(capsys, *arguments)
    assert code == 0 and "2 files are left out" in err and "train/red/000.jpg" in err
    assert len(Run.open(tmp_path / "run").record["bad_images"]) == 2


def test_an_existing_run_needs_force(capsys: pytest.CaptureFixture[str], trained: Path, two_splits: Path) -> None:
    before = (trained / "run.json").read_bytes()
    code, _, err = zoo(capsys, "train", "--data", two_splits, *TINY, "--strategy", "linear", "--out", trained)
    assert code == 2 and "exists" in err and "--force" in err
    assert (trained / "run.json").read_bytes() == before


def test_predicting_a_broken_photograph(
    capsys: pytest.CaptureFixture[str], trained: Path, two_splits: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0")
    good = two_splits / "val/red/000.jpg"
    code, out, err = zoo(capsys, "predict", trained, broken, good)
    assert code == 1 and out.startswith(f"{good}\t") and "broken.jpg" in err and "Traceback" not in err


def test_verify_exits_1_on_a_flipped_byte(capsys: pytest.CaptureFixture[str], exported: Path) -> None:
    file = exported
    assert zoo(capsys, "verify", file)[0] == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, out, err = zoo(capsys, "verify", file)
    assert code == 1 and out == "" and "failed integrity" in err


def test_inspect_and_the_program_that_verifies(
    capsys: pytest.CaptureFixture[str], exported: Path, tmp_path: Path
) -> None:
    file, script = exported, tmp_path / "verify_model.py"
    code, out, err = zoo(capsys, "inspect", file)
    assert code == 0 and out == "" and "photographs uint8" in err and "zoo.parity" in err
    code, out, err = zoo(capsys, "inspect", file, "--json")
    found = json.loads(out)
    assert code == 0 and found["metadata"]["zoo.parity"]["images"] == found["metadata"]["zoo.parity"]["agreeing"]
    assert {stage["name"] for stage in found["metadata"]["zoo.parity"]["stages"]} == {"decode", "resize", "network"}
    assert zoo(capsys, "verify", file, "--script", script)[0] == 0 and "import onnxruntime" in script.read_text()
    code, out, err = zoo(capsys, "verify", file, "--script", script)
    assert code == 2 and "--force" in err
    code, out, err = zoo(capsys, "inspect", script)
    assert code == 2 and "is not an exported file" in err
    before = file.read_bytes()
    code, out, err = zoo(capsys, "verify", file, "--script", file, "--force")
    assert code == 2 and "does not end in `.py`" in err and file.read_bytes() == before
    code, out, err = zoo(capsys, "bench", file, "--out", file, "--force")
    assert code == 2 and "does not end in `.json`" in err and file.read_bytes() == before


@pytest.mark.parametrize("columns", ["0", "5"])
def test_a_narrow_terminal_loses_no_figure(
    columns: str, capsys: pytest.CaptureFixture[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, _, err = zoo(capsys, "compare", trained)
    assert code == 0 and "timm" in err and max(map(len, err.splitlines())) <= 40
    code, _, err = zoo(capsys, "evaluate", trained)
    accuracy = Run.open(trained).metrics["accuracy"]
    assert code == 0 and f"{accuracy:.4f}" in err


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", {"train": 3, "val": 2})
    for split in ("train", "val"):
        (tmp_path / "photos" / split / "red").rename(tmp_path / "photos" / split / ":dog:")
    settings: list[str | Path] = [
        "--data",
        tmp_path / "photos",
        *TINY,
        "--strategy",
        "linear",
        "--out",
        tmp_path / "run",
    ]
    assert zoo(capsys, "train", *settings)[0] == 0
    assert ":dog:" in zoo(capsys, "evaluate", tmp_path / "run")[2]
    assert "it's" in zoo(capsys, "list", "it's")[2]
    code, _, err = zoo(capsys, "plan", "--backbone", "timm/test_resnet", "--strategy", "full", "--data", "")
    assert code == 2 and not unsaid(err, "`--data ''`")


def test_no_colour_and_no_markup(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zoo_cli.main", "compare", str(trained)],
        env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b[3" not in done.stderr and "accuracy" in done.stderr


def test_control_c_leaves_a_readable_run(two_splits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [
        "train", "--data", str(two_splits), *TINY, "--epochs", "5000", "--strategy", "linear", "--out", str(out),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's `&` has it ignored
    )
    try:
        history = out / "history.jsonl"
        deadline = time.monotonic() + 120
        while not (history.exists() and history.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted" in err
    assert Run.open(out).status == "interrupted" and Run.open(out).history
