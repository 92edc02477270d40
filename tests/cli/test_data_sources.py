"""Tables as `--data` of commands: training with a table of splits, then evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests_support import make_photos

from zoo_cli.main import run

SMALL = ["--backbone", "timm/test_resnet", "--strategy", "partial:1", "--weights", "none", "--image-size", "32"]


def zoo(*words: str) -> int:
    return run(list(words))


def test_train_evaluate_and_predict_read_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", {"": 4})
    names = sorted(file.relative_to("photos").as_posix() for file in Path("photos").rglob("*.jpg"))
    Path("t.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names))
    Path("s.csv").write_text("path,split\n" + "".join(f"{n},{'val' if '3.' in n else 'train'}\n" for n in names))
    small = [*SMALL, "--epochs", "1", "--device", "cpu", "--out", "run"]
    assert zoo("train", "--data", "csv:t.csv,root=photos", "--splits", "s.csv", *small) == 0
    record = json.loads(Path("run/run.json").read_text())
    assert record["experiment"]["data"] == f'splits:"{tmp_path}/s.csv":csv:{tmp_path}/t.csv,root={tmp_path}/photos'
    assert set(record["data_files"]) == {f"{tmp_path}/s.csv", f"{tmp_path}/t.csv"}
    assert record["data"]["fit"]["images"] == 6
    capsys.readouterr()
    monkeypatch.chdir("/")
    assert zoo("evaluate", str(tmp_path / "run"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    for split, count in ((), 2), (("--split", "all"), 8):  # the run's own images, divided as it divided them
        assert zoo("evaluate", str(tmp_path / "run"), "--data", f"csv:{tmp_path}/t.csv", *split, "--json") == 0
        assert json.loads(capsys.readouterr().out)["images"] == count
    (tmp_path / "new.csv").write_text("file\nred/000.jpg\nnowhere.jpg\n")
    data = f"csv:{tmp_path}/new.csv,root={tmp_path}/photos"
    assert zoo("predict", str(tmp_path / "run"), "--data", data, "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == ["red/000.jpg", "nowhere.jpg"]
    assert rows[0]["label"] in ("blue", "red") and "exist" in rows[1]["error"]
    assert zoo("predict", str(tmp_path / "run")) == 2 and "--data" in capsys.readouterr().err
