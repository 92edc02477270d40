"""int8 files give the same on every x86-64 processor: proved from their weights, and seen on an emulated one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from small_int8 import photographs, record, spec_of

from zoo_onnx import int8
from zoo_onnx.inspection import inspect
from zoo_onnx.saturation import LARGEST_PAIR, PROCESSORS, can_saturate, largest_pair, largest_pairs
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import write

QEMU = shutil.which("qemu-x86_64")  # `-cpu max` has AVX2 and no VNNI

rows_of_weights = st.integers(1, 6).flatmap(lambda width: arrays(np.int8, (3, 2 * width)))


def without_vnni(activations: npt.NDArray[np.uint8], weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """What AVX2 makes of `activations (K,) @ weights (outputs, K).T`: two products at a time are added in 16 bits.

    `vpmaddubsw` of Intel's "64 and IA-32 architectures software developer's manual", volume 2C.
    """
    products = activations.astype(np.int32) * weights.astype(np.int32)
    pairs = np.clip(products[:, 0::2] + products[:, 1::2], -(2**15), 2**15 - 1)
    total: npt.NDArray[np.int32] = pairs.sum(axis=1, dtype=np.int32)
    return total


@given(weights=rows_of_weights, data=st.data())
def test_weights_that_are_proved_never_saturate(weights: npt.NDArray[np.int8], data: st.DataObject) -> None:
    kept = np.clip(weights, -64, 64)
    assert largest_pair(kept) <= LARGEST_PAIR
    order = data.draw(st.permutations(range(weights.shape[1])))
    for one in (kept, weights):
        shown = data.draw(arrays(np.uint8, weights.shape[1]))
        exact = one[:, order].astype(np.int32) @ shown.astype(np.int32)
        if largest_pair(one) <= LARGEST_PAIR:
            assert (without_vnni(shown, one[:, order]) == exact).all()


@given(weights=rows_of_weights)
def test_what_is_not_proved_saturates_in_some_order(weights: npt.NDArray[np.int8]) -> None:
    if largest_pair(weights) <= LARGEST_PAIR + 1:  # 255 * -129 does not fit, 255 * 128.5 would
        return
    lost = 0
    for row in weights:
        for order in (np.argsort(row), np.argsort(-row.astype(np.int32))):
            pair = np.where(np.arange(len(row)) < 2, 255, 0).astype(np.uint8)
            sorted_row = row[order][None]
            lost += (without_vnni(pair, sorted_row) != sorted_row.astype(np.int32) @ pair.astype(np.int32)).any()
    assert lost


def layer(kind: str, weights: npt.NDArray[np.int8], **attributes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"]),
        helper.make_node(kind, ["x", "weight"], ["y"], name="layer", **attributes),
    ]
    constants = {"w": weights, "scale": np.array(1, np.float32), "zero": np.array(0, np.int8)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], tensors))


def test_pairs_are_of_one_output() -> None:
    weights = np.array([[100, -100, 90], [1, 2, -3]], np.int8)  # two outputs of three weights
    for model in (
        layer("Gemm", weights, transB=1),
        layer("Gemm", np.ascontiguousarray(weights.T)),
        layer("MatMul", np.ascontiguousarray(weights.T)),
        layer("Conv", weights.reshape(2, 3, 1, 1)),
    ):
        assert largest_pairs(model) == {"layer": 190} and can_saturate({"layer": 190}) == ["layer"]
    assert largest_pairs(layer("MatMul", weights)) == {"layer": 101}  # three outputs of two weights
    assert largest_pairs(layer("Conv", np.array([[[[-128]]]], np.int8))) == {"layer": 128}


def test_a_file_says_for_which_processors_it_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "int8.onnx", "int8", max_drop=0.5)
    write(spec)
    assert all(pair <= LARGEST_PAIR for pair in largest_pairs(onnx.load(spec.file)).values())
    said = record(spec.file)["saturation"]
    assert inspect(spec.file)["saturation"] == said
    assert isinstance(said, dict) and said["proved_for"] == list(PROCESSORS) and said["layers"] == 4
    told = next(check for check in verify(spec.file, "cpu") if check.name == "precision")
    assert told.passed and all(name in told.detail for name in PROCESSORS)

    monkeypatch.setattr(int8, "REDUCE_RANGE", False)  # as files were made until then
    monkeypatch.setattr(int8, "describe", lambda model: {"can_saturate": []})
    old = spec_of(tmp_path / "old.onnx", "int8", max_drop=0.5)
    write(old)
    told = next(check for check in verify(old.file, "cpu") if check.name == "precision")
    assert told.passed and "VNNI alone" in told.detail and "4 of 4" in told.detail
    found = inspect(old.file)["saturation"]
    assert found["proved_for"] == [] and len(found["can_saturate"]) == 4


def product(weights: npt.NDArray[np.int8]) -> onnx.ModelProto:
    """`x @ weights.T` by onnxruntime's integer kernel, scaled into eight bits."""
    constants = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "w": np.ascontiguousarray(weights.T),
        "w_zero": np.array(0, np.int8),
        "large": np.array(2**14, np.float32),
        "middle": np.array(128, np.uint8),
    }
    names = ["x", "one", "zero", "w", "one", "w_zero", "large", "middle"]
    node = helper.make_node("QLinearMatMul", names, ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


PROGRAM = """
import json, sys
import numpy as np
import onnxruntime as ort

def ask(file, output, feed):
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run([output], feed)[0]

made = np.load(sys.argv[1])
files = json.loads(sys.argv[2])
found = {name: ask(file, output, {given: made[given]}) for name, (file, output, given) in files.items()}
np.savez(sys.argv[3], **found)
"""


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="needs qemu-user")
def test_an_emulated_processor_without_vnni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy gives what AVX2 gives; files of zoo give the same there as here, and files of eight bits do not."""
    generator = np.random.default_rng(0)
    weights = generator.choice(np.array([127, 100, -128], np.int8), (6, 64))
    shown = generator.integers(200, 256, (1, 64), dtype=np.uint8)
    onnx.save(product(weights), tmp_path / "product.onnx")
    new = spec_of(tmp_path / "new.onnx", "int8", max_drop=0.5)
    write(new)
    monkeypatch.setattr(int8, "REDUCE_RANGE", False)
    monkeypatch.setattr(int8, "describe", lambda model: {"can_saturate": []})
    old = spec_of(tmp_path / "old.onnx", "int8", max_drop=0.5)
    write(old)
    np.savez(tmp_path / "given.npz", x=shown, photographs=photographs(16, 3))
    files = {
        "product": (str(tmp_path / "product.onnx"), "y", "x"),
        "new": (str(new.file), "logits", "photographs"),
        "old": (str(old.file), "logits", "photographs"),
    }
    arguments = [str(tmp_path / "given.npz"), json.dumps(files), str(tmp_path / "found.npz")]
    assert QEMU is not None
    subprocess.run([QEMU, "-cpu", "max", sys.executable, "-c", PROGRAM, *arguments], check=True)
    found = np.load(tmp_path / "found.npz")
    expected = np.clip(np.rint(without_vnni(shown[0], weights) / 2**14) + 128, 0, 255)
    assert (found["product"][0] == expected).all()
    exact = np.clip(np.rint(weights.astype(np.int32) @ shown[0].astype(np.int32) / 2**14) + 128, 0, 255)
    assert (expected != exact).any()
    here = open_file(new.file, "cpu").logits(list(photographs(16, 3)))
    np.testing.assert_allclose(found["new"], here, rtol=1e-5, atol=1e-5)
    assert np.abs(found["old"] - open_file(new.file, "cpu").logits(list(photographs(16, 3)))).max() > 1e-3
