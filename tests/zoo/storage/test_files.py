"""Files are written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zoo import ZooError
from zoo.predictions import Predictions
from zoo.storage.files import check_schema, read_json, write_bytes, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ZooError, match=r"a\.json` cannot be written: No space left on device"):
        write_json(file, {"new": 1})
    assert json.loads(file.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="cannot be written"):
        write_bytes(tmp_path / "nowhere/a.bin", b"x")
    with pytest.raises(ZooError, match="there is no file"):
        read_json(tmp_path / "a.json")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    check_schema(1, tmp_path)
    with pytest.raises(ZooError, match="has schema 2, this zoo reads up to 1"):
        check_schema(2, tmp_path)


def table() -> Predictions:
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    ids = ("val/a/1.jpg", "val/é/2.jpg", "x", "y")
    return Predictions(split="val", classes=("a", "é", "c"), ids=ids, labels=np.array([0, 1, 2, 0]), logits=logits)


def test_predictions_round_trip(tmp_path: Path) -> None:
    table().save(tmp_path / "p.safetensors")
    back = Predictions.load(tmp_path / "p.safetensors")
    assert (back.split, back.classes, back.ids) == (table().split, table().classes, table().ids)
    assert np.array_equal(back.logits, table().logits) and np.array_equal(back.labels, table().labels)


def test_damaged_predictions_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    table().save(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ZooError, match="cannot be read"):
        Predictions.load(file)
