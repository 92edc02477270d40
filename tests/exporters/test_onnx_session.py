"""Opening a file: devices, and what is said of files that cannot be opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from messages import refused
from small_export import CLASSES

from zoo.errors import UsageError, ZooError
from zoo.exporter import ExportSpec
from zoo.system.cuda import cuda_devices
from zoo_onnx import session as module
from zoo_onnx.session import open_file

without_cuda = pytest.mark.skipif(bool(cuda_devices()), reason="this machine has a CUDA device")


def test_unknown_device(onnx_spec: ExportSpec) -> None:
    with refused(UsageError, "device", "`tpu`"):
        open_file(onnx_spec.file, "tpu")


def test_classes_that_are_not_those_of_the_logits(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    model, file = onnx.load(onnx_spec.file), tmp_path / "fewer.onnx"
    for entry in model.metadata_props:
        if entry.key == "zoo.classes":
            entry.value = '["one"]'
    onnx.save(model, file)
    with refused(ZooError, "1 class", str(len(CLASSES))):
        open_file(file, "cpu").logits([np.zeros((40, 40, 3), np.uint8)])


@without_cuda
def test_auto_without_cuda_is_the_cpu(onnx_spec: ExportSpec) -> None:
    assert open_file(onnx_spec.file, "auto").device == "CPUExecutionProvider"


@without_cuda
def test_cuda_that_is_not_there_is_an_error(onnx_spec: ExportSpec) -> None:
    with refused(ZooError, "`--device cuda`", "this", "CUDA"):
        open_file(onnx_spec.file, "cuda")


@without_cuda
def test_session_that_fell_back_is_an_error(onnx_spec: ExportSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that the driver shows and a provider that does not load: libraries are missing."""
    monkeypatch.setattr(module, "cuda_devices", lambda: ("a device",))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [module.CUDA, module.CPU])
    opened = ort.InferenceSession

    def falls_back(content: bytes, options: ort.SessionOptions, providers: list[object]) -> ort.InferenceSession:
        assert providers[0] == (module.CUDA, {"device_id": 0, "use_tf32": "0"})
        return opened(content, options, providers=[module.CPU])

    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    with refused(ZooError, "`--device cuda`", "onnxruntime", "CUDA provider", "CPU"):
        open_file(onnx_spec.file, "cuda")
    assert open_file(onnx_spec.file, "auto").device == module.CPU
    with pytest.raises(ZooError) as raised:
        open_file(onnx_spec.file, "cuda:1")
    assert raised.value.message == "`--device cuda:1`: this machine has 1 CUDA device"


def test_old_onnxruntime_is_refused_on_cuda_only(onnx_spec: ExportSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cuda_devices", lambda: ("a device",))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [module.CUDA, module.CPU])
    monkeypatch.setattr(ort, "__version__", "1.22.1")
    with refused(ZooError, "onnxruntime 1.22.1", "CUDA", "onnxruntime-gpu>=1.23.0"):
        open_file(onnx_spec.file, "cuda")
    assert open_file(onnx_spec.file, "cpu").device == module.CPU


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_devices(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(onnx_spec: ExportSpec) -> None:
    batch = [np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)] * 3
    on_cuda = open_file(onnx_spec.file, "cuda")
    assert on_cuda.device == "CUDAExecutionProvider:0"
    np.testing.assert_allclose(on_cuda.logits(batch), open_file(onnx_spec.file, "cpu").logits(batch), atol=0.02)


def test_missing_file(tmp_path: Path) -> None:
    with refused(ZooError, "none.onnx`", "No such file"):
        open_file(tmp_path / "none.onnx", "cpu")


@pytest.mark.parametrize("content", [b"", b"not ONNX at all " * 20, b"\x08\x0a"], ids=["empty", "text", "no graph"])
def test_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "text.onnx"
    file.write_bytes(content)
    with refused(ZooError, "text.onnx`", "ONNX file"):
        open_file(file, "cpu")


def test_newer_opset_and_ir_ask_for_a_newer_onnxruntime(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    file = tmp_path / "newer.onnx"
    model = onnx.load(onnx_spec.file)
    next(entry for entry in model.opset_import if not entry.domain).version = 999
    file.write_bytes(model.SerializeToString())
    with refused(ZooError, "newer.onnx`", "newer onnxruntime"):
        open_file(file, "cpu")
    model = onnx.load(onnx_spec.file)
    model.ir_version = 999
    file.write_bytes(model.SerializeToString())
    with refused(ZooError, "newer.onnx`", "newer onnxruntime"):
        open_file(file, "cpu")


def test_batches_stay_within_memory() -> None:
    large = np.zeros((5000, 4000, 3), dtype=np.uint8)
    small = np.zeros((10, 10, 3), dtype=np.uint8)
    batches = list(module._batches([large, small, large, large] + [small] * 40))
    assert [len(batch) for batch in batches] == [2, 1, 32, 9]
    assert sorted(place for batch in batches for place in batch) == list(range(44))


def test_ten_lines_of_the_documentation(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    """The program of the guide runs as it stands, with onnxruntime, numpy and pillow alone."""
    from PIL import Image

    text = (Path(__file__).parents[2] / "docs/how-to/deploy-with-onnxruntime.md").read_text(encoding="utf-8")
    program = text.split('```python title="classify.py"\n')[1].split("```")[0]
    photograph = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(photograph)
    program = program.replace("runs/first/model.onnx", str(onnx_spec.file)).replace("photo.jpg", str(photograph))
    program += "\nimport sys\nassert not {'zoo', 'torch', 'onnx'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(name in done.stdout for name in CLASSES)
