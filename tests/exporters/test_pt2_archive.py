"""PT2 archives: written, read back, damaged, and refused where they could run code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import refused
from small_export import CLASSES, PREPROCESS, small_spec
from torch import nn

from zoo.errors import ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden_inputs import golden_photographs
from zoo_pt2.archive import open_file, verify, write

Change = Callable[[str, bytes], bytes | None]


def rewritten(spec: ExportSpec, file: Path, change: Change, extra: dict[str, bytes] | None = None) -> Path:
    """A copy with members changed (or, with None, left out) by their name below the top folder, and others added."""
    with zipfile.ZipFile(spec.file) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        top = source.namelist()[0].partition("/")[0]
        for member in source.infolist():
            content = change(member.filename.removeprefix(f"{top}/"), source.read(member))
            if content is not None:
                target.writestr(member.filename, content)
        for name, content in (extra or {}).items():
            target.writestr(f"{top}/{name}", content)
    return file


def test_archive_predicts_what_torch_predicts(pt2_spec: ExportSpec) -> None:
    predictor = open_file(pt2_spec.file, "cpu")
    assert (predictor.classes, predictor.preprocess, predictor.device) == (CLASSES, PREPROCESS, "cpu")
    pictures = list(golden_photographs().values()) * 9
    logits = predictor.logits(pictures)
    assert logits.shape == (36, len(CLASSES))
    np.testing.assert_allclose(logits[:4], logits[32:], atol=1e-5)
    assert all(check.passed for check in verify(pt2_spec.file, "cpu"))


def test_archive_holds_no_pickle(pt2_spec: ExportSpec) -> None:
    with zipfile.ZipFile(pt2_spec.file) as archive:
        assert [name for name in archive.namelist() if name.endswith((".pt", ".pkl")) and archive.read(name)] == []


def test_changed_weight(pt2_spec: ExportSpec, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if name == "data/weights/weight_0" else content

    checks = verify(rewritten(pt2_spec, tmp_path / "weight.pt2", change), "cpu")
    failed = [check for check in checks if not check.passed]
    assert [check.detail for check in failed] == ["`data/weights/weight_0` was changed, added or removed"]


def test_changed_class_order(pt2_spec: ExportSpec, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name != "extra/zoo.json":
            return content
        record = json.loads(content)
        return json.dumps({**record, "classes": record["classes"][::-1]}).encode()

    failed = [check for check in verify(rewritten(pt2_spec, tmp_path / "o.pt2", change), "cpu") if not check.passed]
    assert [check.name for check in failed] == ["record", "golden inputs"]
    assert "class 0 is `wasps`, was `ants`" in failed[1].detail


class Mine:
    """What unpickling this does is write a file: proof that code ran."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    "member", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0", "data/weights/model.pt"]
)
def test_archive_with_a_pickle_is_refused(pt2_spec: ExportSpec, tmp_path: Path, member: str) -> None:
    stream = io.BytesIO()
    torch.save(Mine(tmp_path / "ran"), stream)

    def change(name: str, content: bytes) -> bytes | None:
        return None if name == member else content

    file = rewritten(pt2_spec, tmp_path / "evil.pt2", change, {member: stream.getvalue()})
    with refused(ZooError, "evil.pt2`", "pickle"):
        open_file(file, "cpu")
    assert not (tmp_path / "ran").exists()


def test_weights_config_that_names_a_pickle_is_refused(pt2_spec: ExportSpec, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name != "data/weights/model_weights_config.json":
            return content
        return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)

    file = rewritten(pt2_spec, tmp_path / "evil.pt2", change)
    with refused(ZooError, "evil.pt2`", "pickle"):
        open_file(file, "cpu")


@pytest.mark.parametrize("length", [0, 100, -1000])
def test_archive_cut_short(pt2_spec: ExportSpec, tmp_path: Path, length: int) -> None:
    file = tmp_path / "short.pt2"
    file.write_bytes(pt2_spec.file.read_bytes()[:length])
    with refused(ZooError, "short.pt2`", "PT2 archive", "cut short"):
        verify(file, "cpu")


def test_archive_of_other_making_and_newer_schema(pt2_spec: ExportSpec, tmp_path: Path) -> None:
    other = rewritten(pt2_spec, tmp_path / "other.pt2", lambda name, content: None if "zoo" in name else content)
    with refused(ZooError, "other.pt2`", "`extra/zoo.json`"):
        verify(other, "cpu")

    def newer(name: str, content: bytes) -> bytes:
        return content.replace(b'"schema": 1', b'"schema": 2') if name == "extra/zoo.json" else content

    with refused(ZooError, "newer.pt2`", "schema 2", "1"):
        open_file(rewritten(pt2_spec, tmp_path / "newer.pt2", newer), "cpu")


def test_missing_archive(tmp_path: Path) -> None:
    with refused(ZooError, "none.pt2`", "No such file"):
        open_file(tmp_path / "none.pt2", "cpu")


class Branching(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return means if bool(means.sum() == 0) else means * 2


def test_network_that_cannot_be_traced(tmp_path: Path) -> None:
    with refused(ZooError, "traced", "torch.export"):
        write(small_spec(tmp_path / "branching.pt2", model=Branching()))
    assert not (tmp_path / "branching.pt2").exists()
