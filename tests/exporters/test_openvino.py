"""OpenVINO files: they predict what the run does, a changed one is found out, and the library is asked for by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from messages import refused
from small_export import small_spec

from zoo.errors import UsageError, ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden_inputs import golden_photographs
from zoo.runtime import Workload
from zoo_onnx.write import torch_logits
from zoo_openvino.model import open_file, verify, write
from zoo_runtimes.openvino import load_ir, load_onnx


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    found = small_spec(tmp_path_factory.mktemp("openvino") / "small.xml")
    write(found)
    return found


def test_a_file_predicts_what_torch_does(spec: ExportSpec) -> None:
    shown = list(golden_photographs().values()) * 9  # more than one batch
    found = open_file(spec.file, "cpu").logits(shown)
    np.testing.assert_allclose(found, torch_logits(spec, shown), rtol=1e-4, atol=1e-4)
    checks = verify(spec.file, "auto")
    assert [check.name for check in checks] == ["integrity", "weights", "golden inputs"]
    assert all(check.passed for check in checks)
    assert sorted(file.name for file in spec.file.parent.iterdir()) == ["small.bin", "small.xml"]


@pytest.mark.parametrize("part", ["integrity", "weights"])
def test_a_changed_file_fails_verification(spec: ExportSpec, part: str, tmp_path: Path) -> None:
    graph, weights = spec.file.read_text(), bytearray(spec.file.with_suffix(".bin").read_bytes())
    if part == "integrity":
        graph = graph.replace("Apache-2.0", "Apache-3.0")
    else:
        weights[40] ^= 1
    (tmp_path / "x.xml").write_text(graph)
    (tmp_path / "x.bin").write_bytes(weights)
    assert part in [check.name for check in verify(tmp_path / "x.xml", "cpu") if not check.passed]


def test_files_that_zoo_did_not_write_are_refused(
    spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.xml").write_text("<net/>")
    with refused(ZooError, "x.xml`", "OpenVINO file"):
        open_file(tmp_path / "x.xml", "cpu")
    with refused(UsageError, "OpenVINO", "CPU", "`cuda`"):
        open_file(spec.file, "cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with refused(ZooError, "OpenVINO", "installed", "backbone-zoo[openvino]") as error:
        open_file(spec.file, "cpu")
    assert error.value.hint is not None and "backbone-zoo[openvino]" in error.value.hint


def test_the_runtime_times_both_kinds(spec: ExportSpec, onnx_spec: ExportSpec) -> None:
    batch = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    found = []
    for load, file in ((load_ir, spec.file), (load_onnx, onnx_spec.file)):
        session = load(Workload(target=file))
        assert session.provider.startswith("OpenVINO") and "CPU" in session.provider
        found.append(np.array(session.prepare(batch)()[0]))  # type: ignore[index]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    session = load_onnx(Workload(target=onnx_spec.file, with_preprocess=True))
    shares = session.prepare(np.zeros((2, 375, 500, 3), np.uint8))()
    np.testing.assert_allclose(np.asarray(shares).sum(axis=1), 1, rtol=1e-6)


def test_openvino_reads_a_network_as_onnxruntime_does_and_not_a_resize(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    """The documentation warns of the second (openvino#35893); where it fails, the warning can go."""
    import onnxruntime
    import openvino

    from zoo.data.image import normalise, pixels
    from zoo_onnx.write import write as write_onnx

    outside = replace(onnx_spec, file=tmp_path / "outside.onnx", preprocessing="outside")
    write_onnx(outside)
    shown = golden_photographs()["landscape"]
    inputs = {
        outside.file: normalise(pixels(shown, outside.preprocess)[None], outside.preprocess),
        onnx_spec.file: shown[None],
    }
    apart = []
    for file, given in inputs.items():
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        expected = session.run(["logits"], {session.get_inputs()[0].name: given})[0]
        compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        apart.append(float(np.abs(compiled(given)["logits"] - expected).max()))
    assert apart[0] < 1e-4 < 0.01 < apart[1]
