"""ONNX files without zoo: the standalone verifier, the metadata, and external weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from messages import refused
from onnx import TensorProto, helper
from small_export import CLASSES, small_spec

from zoo.errors import ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden_inputs import golden_photographs
from zoo_onnx import size
from zoo_onnx.inspection import inspect
from zoo_onnx.script import source
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import annotate, write

# Runs the program where neither zoo nor anything but what it says it needs can be imported
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("zoo", "zoo_onnx", "torch", "onnx", "PIL", "scipy", "pydantic"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, *arguments: object) -> tuple[int, str]:
    script = folder / "verify_model.py"
    script.write_text(source(), encoding="utf-8")
    command = [sys.executable, "-I", "-c", ALONE, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_the_program_passes_a_sound_file_and_no_other(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    code, out = run_alone(tmp_path, onnx_spec.file)
    assert code == 0 and out.count("ok ") == 2 + len(golden_photographs()) and "failed" not in out
    content = bytearray(onnx_spec.file.read_bytes())
    content[len(content) // 2] ^= 1
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content)
    code, out = run_alone(tmp_path, broken)
    assert code == 1 and "failed digest" in out
    broken.write_bytes(content[: len(content) // 2])
    assert run_alone(tmp_path, broken)[0] == 1
    code, out = run_alone(tmp_path, onnx_spec.file, "NoSuchProvider")
    assert code == 1 and "NoSuchProvider" in out
    assert run_alone(tmp_path, tmp_path / "missing.onnx")[0] == 2


def test_golden_logits_that_were_changed_are_found(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    model = onnx.load(onnx_spec.file)
    entry = next(one for one in model.metadata_props if one.key == "zoo.golden")
    golden = json.loads(entry.value)
    golden["logits"]["strip"][CLASSES[0]] += 1.0
    entry.value = json.dumps(golden)
    from zoo_onnx.metadata import seal

    file = tmp_path / "changed.onnx"
    file.write_bytes(seal(model))
    code, out = run_alone(tmp_path, file)
    assert code == 1 and out.count("failed") == 1 and "failed golden input strip" in out


def test_inspect_returns_the_metadata(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    found = inspect(onnx_spec.file)
    assert found["zoo"] and found["metadata"]["zoo.classes"] == list(CLASSES)
    assert found["inputs"] == ["photographs uint8 (N, H, W, 3)"] and found["nodes"]["Conv"] == 1
    other = tmp_path / "other.onnx"
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    onnx.save(helper.make_model(graph), other)
    assert not inspect(other)["zoo"] and inspect(other)["inputs"] == ["x float (1, 3)"]
    other.write_bytes(b"no onnx")
    with refused(ZooError, "other.onnx`", "ONNX file"):
        inspect(other)


def test_an_annotated_file_is_sound(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    file = Path(shutil.copy(onnx_spec.file, tmp_path / "a.onnx"))
    annotate(file, {"agreeing": 3})
    assert all(check.passed for check in verify(file, "cpu"))
    assert inspect(file)["metadata"]["zoo.parity"] == {"agreeing": 3}


def test_a_large_network_keeps_its_weights_beside(
    onnx_spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = onnx_spec
    monkeypatch.setattr(size, "MAX_BYTES", 1000)
    spec = small_spec(tmp_path / "large.onnx")
    write(spec)
    weights = tmp_path / "large.onnx.data"
    assert weights.stat().st_size > 1000 and spec.file.stat().st_size < plain.file.stat().st_size
    checks = verify(spec.file, "cpu")
    assert all(check.passed for check in checks) and any("large.onnx.data" in check.detail for check in checks)
    shown = list(golden_photographs().values())
    np.testing.assert_array_equal(open_file(spec.file, "cpu").logits(shown), open_file(plain.file, "cpu").logits(shown))
    assert run_alone(tmp_path, spec.file)[0] == 0
    moved = tmp_path / "elsewhere" / "large.onnx"
    moved.parent.mkdir()
    shutil.copy(spec.file, moved)
    with pytest.raises(ZooError):
        open_file(moved, "cpu")
    content = bytearray(weights.read_bytes())
    content[100] ^= 64
    weights.write_bytes(content)
    assert next(check.name for check in verify(spec.file, "cpu") if not check.passed) == "weights"
    assert run_alone(tmp_path, spec.file)[0] == 1
