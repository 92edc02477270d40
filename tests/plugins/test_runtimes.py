"""Built-in runtimes: what they compute is what the network computes, and where it really runs is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from messages import refused
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import zoo_runtimes.onnxruntime as ort_runtime
from zoo.data.image import normalise, pixels
from zoo.errors import ZooError
from zoo.latency.measurement import bench
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo.runtime import PHOTOGRAPH, Input, Workload
from zoo.system.cuda import cuda_devices
from zoo_cli.main import run
from zoo_runtimes import availability
from zoo_runtimes.torch import TorchSession

PREPROCESS = Preprocess(resize=20, crop=16)
CPU, CUDA = ort_runtime.CPU, ort_runtime.CUDA


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A session sets how many threads torch takes, which is for its own process to decide."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((2, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def photographs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).integers(0, 256, (2, *PHOTOGRAPH, 3), dtype=np.uint8)


def write_file(path: Path, *, ours: bool = True, names: tuple[str, str] = ("pixels", "logits")) -> Path:
    """Photographs are cut to 16 x 16, scaled, convolved and pooled: a file of our form, of nine nodes."""
    generator = np.random.default_rng(3)
    constants = {
        "weight": generator.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "zero": np.array([0, 0], np.int64),
        "side": np.array([16, 16], np.int64),
        "axes": np.array([1, 2], np.int64),
        "scale": np.float32(255),
        "flat": np.array([0, -1], np.int64),
    }
    begin, end = names
    nodes = [
        helper.make_node("Slice", ["photographs", "zero", "side", "axes"], ["cropped"]),
        helper.make_node("Cast", ["cropped"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "scale"], [begin]),
        helper.make_node("Conv", [begin, "weight"], ["convolved"]),
        helper.make_node("GlobalAveragePool", ["convolved"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], [end]),
        helper.make_node("Softmax", [end], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "file",
        [helper.make_tensor_value_info("photographs", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]) for name in ("probabilities", end)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if ours:
        helper.set_model_props(file, {"zoo.preprocess": json.dumps(PREPROCESS.to_json())})
    onnx.save(file, str(path))
    return path


def write_foreign(path: Path, shape: list[Any], dtype: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    """A file of other making: its inputs go through as they are."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a0"], ["b"])],
        "foreign",
        [helper.make_tensor_value_info(f"a{number}", dtype, shape) for number in range(inputs)],
        [helper.make_tensor_value_info("b", dtype, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def work(target: Path = Path("run"), **options: Any) -> Workload:
    return Workload(target=target, **options)


def test_catalogue_and_availability_import_no_framework() -> None:
    code = (
        "import sys, zoo_runtimes.catalogue as c, zoo_runtimes.availability as a\n"
        "for row in c.RUNTIMES: [getattr(a, row.available.partition(':')[2])(d) for d in row.devices]\n"
        "print(*({'torch', 'onnxruntime', 'onnx', 'timm', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_onnxruntime_worker_never_imports_torch(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.onnx")
    code = (
        "import sys, pathlib, zoo.latency.worker\n"
        "work = dict(target=sys.argv[1], device='cpu', threads=1, with_preprocess=False, allow_fallback=False)\n"
        "worker = zoo.latency.worker.LatencyWorker()\n"
        "worker.load('zoo_runtimes.onnxruntime:load_cpu', work); worker.warm(1, 0.01); worker.measure(1, 1, 0)\n"
        "print(*({'torch', 'timm', 'torchvision', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_torch_from_pixels_to_logits(model: nn.Module, images: np.ndarray[Any, Any]) -> None:
    session = TorchSession(model, PREPROCESS, work(threads=1))
    assert session.input == Input(dtype="float32", shape=(3, 16, 16)) and session.provider.endswith(" cpu")
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for batch in (images, images[:1], images):
        result = session.prepare(batch)()
        assert isinstance(result, np.ndarray)
        np.testing.assert_allclose(result, expected[: len(batch)], atol=1e-5)
    assert [note.partition(":")[0] for note in session.notes] == ["batch 2", "batch 1"]
    assert all("channels-last" in note and "contiguous" in note for note in session.notes)


def test_torch_keeps_the_faster_layout(
    model: nn.Module, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls in the slower layout are made slow; the one that is kept is not."""
    for slower in (torch.contiguous_format, torch.channels_last):
        session = TorchSession(model, PREPROCESS, work(threads=1))
        used: list[torch.memory_format] = []

        def delayed(
            batch: torch.Tensor,
            layout: torch.memory_format,
            *,
            network: Any = session._network,
            slower: torch.memory_format = slower,
            used: list[torch.memory_format] = used,
        ) -> torch.Tensor:
            used.append(layout)
            time.sleep(0.02 if layout is slower else 0)
            result: torch.Tensor = network(batch, layout)
            return result

        monkeypatch.setattr(session, "_network", delayed)
        call = session.prepare(images)
        assert set(used) == {torch.contiguous_format, torch.channels_last}
        used.clear()
        call()
        assert used and used[0] is not slower


def test_torch_from_photographs_to_probabilities(model: nn.Module, photographs: np.ndarray[Any, Any]) -> None:
    session = TorchSession(model, PREPROCESS, work(threads=1, with_preprocess=True))
    assert session.input == Input(dtype="uint8", shape=(*PHOTOGRAPH, 3))
    seen = normalise(np.stack([pixels(photograph, PREPROCESS) for photograph in photographs]), PREPROCESS)
    with torch.no_grad():
        expected = softmax(model(torch.from_numpy(seen)).numpy())
    np.testing.assert_allclose(session.prepare(photographs)(), expected, atol=1e-5)  # type: ignore[call-overload]


@pytest.mark.slow
def test_torch_compiled_computes_the_same(model: nn.Module, images: np.ndarray[Any, Any]) -> None:
    missing = availability.torch_compiled("cpu")
    if missing is not None:
        pytest.skip(missing)
    session = TorchSession(model, PREPROCESS, work(threads=1), compiled=True)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for batch in (images, images[:1]):
        np.testing.assert_allclose(session.prepare(batch)(), expected[: len(batch)], atol=1e-4)  # type: ignore[call-overload]


def test_the_network_is_cut_out_of_the_file(tmp_path: Path, photographs: np.ndarray[Any, Any]) -> None:
    """From `pixels` on the cut network gives what the whole file gives, and the preprocessing is not in it."""
    file = write_file(tmp_path / "a.onnx")
    whole = ort_runtime.load_cpu(work(file, with_preprocess=True))
    assert str(whole.input) == "uint8 (N, 375, 500, 3)" and whole.provider == CPU and whole.notes == ()
    outputs: Any = whole.prepare(photographs)()
    (probabilities,) = outputs
    network = ort_runtime.load_cpu(work(file))
    assert network.input == Input(dtype="float32", shape=(3, 16, 16))
    seen = np.ascontiguousarray(photographs[:, :16, :16].transpose(0, 3, 1, 2) / np.float32(255))
    outputs = network.prepare(seen)()
    (logits,) = outputs
    assert logits.shape == (2, 5) and np.ptp(logits) > 0
    np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-6)
    cut = ort_runtime.cut_network(ort_runtime.read_model(file), PREPROCESS)
    assert [node.op_type for node in cut.graph.node] == ["Conv", "GlobalAveragePool", "Reshape"]


def test_files_of_other_making(tmp_path: Path) -> None:
    whole = ort_runtime.load_cpu(work(write_file(tmp_path / "a.onnx", ours=False)))
    assert str(whole.input) == "uint8 (N, 224, 224, 3)" and "not written by zoo" in whole.notes[0]
    cases: list[tuple[list[Any], int, str]] = [
        (["N", 3, None, None], TensorProto.FLOAT, "float32 (N, 3, 224, 224)"),
        ([4, 3, 32, "W"], TensorProto.FLOAT16, "float16 (4, 3, 32, 224)"),
        (["N", "T"], TensorProto.INT64, "int64 (N, 1)"),
    ]
    for shape, dtype, expected in cases:
        session = ort_runtime.load_cpu(work(write_foreign(tmp_path / "b.onnx", shape, dtype)))
        assert str(session.input) == expected


def test_unsupported_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no ONNX at all")
    (tmp_path / "empty.onnx").write_bytes(b"")
    damaged = write_file(tmp_path / "damaged.onnx")
    damaged.write_bytes(damaged.read_bytes()[:-200])
    other = write_file(tmp_path / "other.onnx", names=("begin", "end"))
    cases = [
        (tmp_path / "text.onnx", ("text.onnx`", "ONNX")),
        (tmp_path / "empty.onnx", ("empty.onnx`", "ONNX")),
        (damaged, ("damaged.onnx`", "ONNX")),
        (other, ("`pixels`", "`logits`", "`zoo export`")),
        (write_foreign(tmp_path / "two.onnx", ["N", 3], inputs=2), ("file", "2 inputs")),
        (write_foreign(tmp_path / "words.onnx", ["N"], TensorProto.STRING), ("`a0`", "numeric")),
        (write_foreign(tmp_path / "scalar.onnx", []), ("`a0`", "shape")),
    ]
    for file, words in cases:
        with refused(ZooError, *words):
            ort_runtime.load_cpu(work(file))


def test_a_fall_back_to_the_cpu_is_an_error(tmp_path: Path) -> None:
    if cuda_devices():
        pytest.skip("there is a CUDA device, nothing falls back")
    for load in (ort_runtime.load_cuda, ort_runtime.load_tensorrt):
        with refused(ZooError, "CPUExecutionProvider", "loaded"):
            load(work(write_file(tmp_path / "a.onnx"), device="cuda"))


class PretendedSession:
    """A session that says it runs on CUDA."""

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_outputs(self) -> list[Any]:
        return []


def test_compute_nodes_that_left_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_file(tmp_path / "a.onnx")
    assigned = {CUDA: Counter(Conv=50), CPU: Counter({"Shape": 2, "Gather": 1})}
    monkeypatch.setattr(ort_runtime, "_open", lambda *_: PretendedSession())
    monkeypatch.setattr(ort_runtime, "_assignment", lambda _: assigned)
    listed = f"3 nodes on {CPU}: Gather, Shape x 2"  # arithmetic on shapes belongs on the CPU
    assert ort_runtime.load_cuda(work(file, device="cuda")).notes == (listed,)
    assigned[CPU]["Conv"] = 2
    with refused(ZooError, "2 compute nodes", "CUDAExecutionProvider", "CPU", "Conv x 2"):
        ort_runtime.load_cuda(work(file, device="cuda"))
    allowed = ort_runtime.load_cuda(work(file, device="cuda", allow_fallback=True))
    assert allowed.notes == (f"5 nodes on {CPU}: Conv x 2, Gather, Shape x 2",)


def test_onnxruntime_tells_where_nodes_run(tmp_path: Path) -> None:
    session = ort_runtime.load_cpu(work(write_file(tmp_path / "a.onnx"), with_preprocess=True))
    if session._assigned is None:
        pytest.skip("this onnxruntime does not tell")
    assert set(session._assigned) == {CPU} and session._assigned[CPU].total() >= 4


def test_why_a_runtime_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert availability.torch_eager("cpu") is None and availability.onnxruntime_cpu("cpu") is None
    monkeypatch.setattr(availability, "cuda_devices", lambda: ())
    for available in (availability.torch_eager, availability.torch_compiled, availability.onnxruntime_cuda):
        assert available("cuda") == "there is no CUDA device"
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert "no C++ compiler" in (availability.torch_compiled("cpu") or "")
    monkeypatch.setattr(availability, "cuda_devices", lambda: ("A",))
    monkeypatch.setattr(availability, "_onnxruntime_folder", lambda: tmp_path)
    assert "cuda provider" in (availability.onnxruntime_cuda("cuda") or "")
    (tmp_path / "capi").mkdir()
    for provider in ("cuda", "tensorrt"):
        (tmp_path / "capi" / f"libonnxruntime_providers_{provider}.so").touch()
    assert availability.onnxruntime_cuda("cuda") is None
    monkeypatch.setattr(availability, "_TENSORRT", ("libnone.so",))
    assert availability.onnxruntime_tensorrt("cuda") == "TensorRT's `libnone.so` cannot be loaded"
    monkeypatch.setattr(availability, "_onnxruntime_folder", lambda: None)
    assert availability.onnxruntime_cpu("cpu") == "onnxruntime is not installed"


def test_bench_of_a_file(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.onnx")
    report = bench([file], runtimes=["onnxruntime-cpu"], batch_sizes=(1, 3), seconds=0.05, device="cpu", threads=1)
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.provider, outcome.input) == ("measured", CPU, "float32 (N, 3, 16, 16)")
    assert [found.batch_size for found in outcome.measurements] == [1, 3]
    assert "network alone" in report.timed


def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_file(tmp_path / "a.onnx")
    quick = ["--seconds", "0.05", "--batch-size", "1", "--threads", "1", "--device", "cpu"]
    out = tmp_path / "latency.json"
    assert run(["bench", str(file), *quick, "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "p99 ms" in told.err and "onnxruntime-cpu" in told.err and "fastest" in told.err
    before = out.read_bytes()
    arguments = ["bench", str(file), *quick, "--with-preprocess", "--json", "--out", str(out)]
    assert run(arguments) == 2 and "exists" in capsys.readouterr().err and out.read_bytes() == before
    assert run([*arguments, "--force"]) == 0
    told = capsys.readouterr()
    data = json.loads(told.out)
    assert data == json.loads(out.read_text()) and data["with_preprocess"]
    assert data["contenders"][0]["input"] == "uint8 (N, 375, 500, 3)" and "probabilities out" in told.err


def test_bench_command_fails_where_nothing_could_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.onnx").write_text("text")
    assert run(["bench", str(tmp_path / "a.onnx"), "--device", "cpu"]) == 1
    told = capsys.readouterr()
    assert "cannot be read as ONNX" in told.err and "Error: nothing could be measured" in told.err
    assert run(["bench", str(tmp_path / "a.onnx"), "--runtime", "torch-eager"]) == 2
    assert "none was given" in capsys.readouterr().err


def test_bench_of_a_run_and_its_export(exported_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--runtime", "torch-eager", "--runtime", "onnxruntime-cpu", "--batch-size", "1", "--seconds", "0.05"]
    assert run(["bench", str(exported_run), *only, "--device", "cpu", "--threads", "1", "--json"]) == 0
    eager, exported = json.loads(capsys.readouterr().out)["contenders"]
    assert (eager["status"], exported["status"]) == ("measured", "measured")
    assert (eager["label"], exported["label"]) == ("run", "model.onnx")
    assert eager["input"] == "float32 (N, 3, 32, 32)" and eager["provider"].startswith("torch ")
    assert sorted(found["measurements"][0]["fastest"] for found in (eager, exported)) == [False, True]
