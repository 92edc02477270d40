"""`zoo rerun`: the same settings give the same weights, and what differs, or has changed since, is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import TINY, make_photos, paint

from zoo import Run, UsageError, rerun, train
from zoo.plugin import Plugins
from zoo.runs.setting_differences import differing_settings
from zoo_cli.main import run as program


def zoo(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = program([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is not wrapped."""
    monkeypatch.setenv("COLUMNS", "2000")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Path:
    """A run on photographs of its own."""
    folder = tmp_path_factory.mktemp("rerun")
    photos = make_photos(folder / "photos", {"train": 6, "val": 4})
    (folder / "list.csv").write_text("id\ntrain/blue/000.jpg\n")
    asked = replace(
        TINY, data=str(photos), strategy="linear", epochs=2, loss="focal:2", exclude=str(folder / "list.csv")
    )
    return train(asked, out=folder / "first", plugins=plugins).path


def test_a_run_is_repeated_bit_for_bit(capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path) -> None:
    code, out, err = zoo(capsys, "rerun", first, "--out", tmp_path / "again")
    assert (code, out.strip()) == (0, str(tmp_path / "again"))
    assert f"as run `{first}`, with no setting changed" in err and "here" not in err and "not those" not in err
    before, after = Run.open(first), Run.open(tmp_path / "again")
    assert before.record["weights_sha256"] == after.record["weights_sha256"]
    assert before.experiment == after.experiment and before.record["data"] == after.record["data"]


def test_changed_settings_are_read_as_by_train_and_told(
    capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path
) -> None:
    words = ["lr=1e-3", "--batch-size=4", "epochs=", "loss=focal:2.0", "augment=none", "image_size=32x40", "levels=0 9"]
    sets = [word for one in words for word in ("--set", one)]
    code, out, err = zoo(capsys, "rerun", first, *sets, "--out", tmp_path / "b", "--json")
    assert code == 0 and json.loads(out)["status"] == "finished"
    told = (
        "epochs not set (was 2), batch_size 4 (was 8), lr 0.001 (was 0.005), augment none (was light), loss focal:2.0 "
        "(was focal:2), image_size 32x40 (was 32), levels 0.0 9.0 (was not set)"
    )
    assert f"as run `{first}`, but {told}\n" in err
    found = differing_settings([Run.open(first), Run.open(tmp_path / "b")])
    assert found.pop("image_size") == [32, [32, 40]] and found.pop("levels") == [None, [0.0, 9.0]]
    # two spellings of one loss are one loss
    assert found == {"epochs": [2, None], "batch_size": [8, 4], "lr": [0.005, 0.001], "augment": ["light", "none"]}
    code, out, err = zoo(capsys, "compare", first, tmp_path / "b")
    assert code == 0 and f"\n  lr: 0.005 in {first}; 0.001 in {tmp_path / 'b'}\n" in err and "loss:" not in err
    code, out, _ = zoo(capsys, "compare", first, tmp_path / "b", "--json")
    assert json.loads(out)["settings"]["lr"] == [0.005, 0.001]
    code, out, err = zoo(capsys, "diff", first, tmp_path / "b")
    assert code == 0 and f"\n  epochs: 2 in {first}; not set in" in err


def test_what_has_changed_since_is_told(capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(first.parent, tmp_path / "moved"))
    record = json.loads((folder / "first" / "run.json").read_text().replace(str(first.parent), str(folder)))
    record["versions"] |= {"backbone-zoo": "0.0.9"}
    record["device"]["threads"] = 64
    (folder / "first" / "run.json").write_text(json.dumps(record))
    photos = folder / "photos" / "train" / "blue"
    paint((40, 60, 220), 99).save(photos / "001.jpg")
    paint((40, 60, 220), 98).save(photos / "new.jpg")
    (photos / "002.jpg").unlink()
    (folder / "list.csv").write_text("id\ntrain/blue/003.jpg\n")
    code, _, err = zoo(capsys, "rerun", folder / "first", "--out", tmp_path / "again")
    assert code == 0
    assert "was made with backbone-zoo 0.0.9, here 0.1.0; threads 64, here 1: equal settings may give other" in err
    assert f"the list of `--exclude`, `{folder / 'list.csv'}`, has changed since run" in err
    assert (
        "1 changed, such as `train/blue/001.jpg`; 2 new, such as `train/blue/000.jpg`; 2 gone, such as "
        "`train/blue/002.jpg`" in err
    )
    code, _, err = zoo(capsys, "rerun", folder / "first", "--set", "exclude=", "--out", tmp_path / "b", "--set", "lr=1")
    assert code == 0 and "1 changed" in err and "new" not in err.split("1 changed")[1].splitlines()[0]


def test_images_of_folds_that_have_changed_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugins: Plugins
) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 4, "val": 2})
    before = train(
        replace(TINY, data=str(photos), strategy="linear", epochs=1, folds=2), out=tmp_path / "a", plugins=plugins
    )
    paint((40, 60, 220), 99).save(photos / "train" / "blue" / "001.jpg")
    code, _, err = zoo(capsys, "rerun", before.path, "--out", tmp_path / "b")
    assert code == 0 and "with no setting changed\n" in err and err.count("the images are not those of run") == 1
    assert f"run `{before.path}`: 1 changed, such as `train/blue/001.jpg`\n" in err
    with pytest.raises(UsageError, match="is one of several folds"):
        rerun(before.path / "folds" / "1", plugins=plugins)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "lr"], "`--set lr` is not written KEY=VALUE"),
        (["--set", "epoch=3"], "unknown setting `epoch`\n\nhint: did you mean `epochs`"),
        (["--set", "epochs=2.5"], "`--set epochs`: `2.5` is not a whole number"),
        (["--set", "epochs=0"], "`--epochs 0` is outside 1 to"),
        (["--set", "keep=first"], "`--set keep`: `first` is not one of"),
        (["--set", "lr=1", "--set", "lr=2"], "`lr` is given twice"),
        (["--set", "data="], "`data` has no default"),
        (["--set", "levels=1"], "`--set levels=1` is not 2 numbers"),
        (["--set", "out=x"], "hint: pass `--out`"),
        (["--set", "splits=x.csv"], "`--set splits=...` cannot change how the data of a run are divided"),
        (["--set", "backbone=resnet0"], "unknown backbone `resnet0`"),
        (["--set", "data=s3://a:hunter2@b"], "has an address with a password"),
        (["--seed", "3"], "no option `--seed`\n\nhint: settings are changed by `--set seed=3`"),
        (["--weight-decay=0.1"], "hint: settings are changed by `--set weight_decay=0.1`"),
        (["--fill", "1", "2", "3"], "hint: settings are changed by `--set fill=1 2 3`"),
        (["--compile"], "hint: settings are changed by `--set compile=true`"),
        (["--from"], "hint: settings are changed by `--set from_run=VALUE`"),
        (["--epohcs", "3"], "no such option"),
        (["--out", "{run}", "--force"], "holds the run that is trained again"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    words = [word.format(run=first) for word in words]
    code, out, err = zoo(capsys, "rerun", first, *words)
    assert (code, out) == (2, "") and told in err and "Traceback" not in err and "hunter2" not in err, err


def test_printed_settings_of_a_run_give_its_settings(
    capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path
) -> None:
    code, text, _ = zoo(capsys, "rerun", first, "--set", "seed=3", "--print-config")
    (tmp_path / "run.toml").write_text(text)
    code, again, _ = zoo(capsys, "train", tmp_path / "run.toml", "--print-config")
    assert code == 0 and again == text and "\nseed = 3\n" in text and 'loss = "focal:2"' in text


def test_a_final_run_is_named_with_its_command(capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path) -> None:
    final = Path(shutil.copytree(first, tmp_path / "final"))
    record = json.loads((final / "run.json").read_text())
    final_of = {"run": str(first), "id": None, "epochs": [2], "temperature": 1.0, "reported_split": "val"}
    record["final"] = {**final_of, "metrics": record["metrics"], "accuracy_interval_95": [0.0, 1.0]}
    (final / "run.json").write_text(json.dumps(record))
    code, _, err = zoo(capsys, "rerun", final)
    assert code == 2 and f"`zoo train --final {first}` trains it again" in err
