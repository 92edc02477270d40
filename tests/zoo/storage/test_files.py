"""Files are written whole or not at all."""

from __future__ import annotations

import ast
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused

from zoo import ZooError
from zoo.predictions import Predictions
from zoo.storage.files import append_json, check_schema, json_text, read_json, write_bytes, write_json


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


def test_predictions_that_are_not_numbers_are_damaged(tmp_path: Path) -> None:
    logits = table().logits.copy()
    logits[1, 2] = np.nan
    broken = replace(table(), logits=logits)
    broken.save(tmp_path / "p.safetensors")
    with refused(ZooError, "p.safetensors`", "val/é/2.jpg", "`c`", "nan"):
        Predictions.load(tmp_path / "p.safetensors")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=VALUES)
def test_json_is_what_python_reads(data: Any) -> None:
    for ascii_only in (False, True):
        text = json_text(data, ascii_only=ascii_only)
        text.encode()
        assert json.loads(text) == data
    assert json_text(data, sort_keys=True, ascii_only=True) == json.dumps(data, sort_keys=True)


@given(name=st.binary(max_size=8))
def test_a_name_that_is_not_utf8_comes_back_from_json(name: bytes) -> None:
    text = json_text({"path": os.fsdecode(name)})
    assert os.fsencode(json.loads(text.encode())["path"]) == name


@given(value=st.sampled_from([math.nan, math.inf, -math.inf]), before=st.lists(VALUES, max_size=2))
def test_what_is_not_finite_is_named_and_not_written(value: float, before: list[Any]) -> None:
    with refused(ZooError, f"metrics.loss.{len(before)}", str(value)):
        json_text({"metrics": {"accuracy": 1.0, "loss": [*before, value]}})


def test_files_of_json_refuse_what_is_not_finite(tmp_path: Path) -> None:
    for write in (write_json, append_json):
        with refused(ZooError, "`loss`", "nan"):
            write(tmp_path / "a.json", {"loss": math.nan})
        assert not list(tmp_path.iterdir())


def test_no_json_holds_nan() -> None:
    """All JSON of zoo is made in one place; the benchmarks, which run in other environments too, ask for the same."""
    root = Path(__file__).parents[3]
    found = set()
    for folder in ("zoo", "plugins", "exporters", "cli", "benchmarks"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps"):
                    assert "allow_nan=False" in ast.unparse(node), f"{file}:{node.lineno}"
                    found.add(file.relative_to(root).as_posix())
    assert {file for file in found if not file.startswith("benchmarks/")} == {"zoo/storage/files.py"}


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """As a device is: a file that is renamed to `/dev/null` would take its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(pipe, b"card")
    assert os.read(reader, 10) == b"card" and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    os.close(reader)
