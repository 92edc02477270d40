"""fp16 and int8: close to fp32, with layers left in fp32 where they would not be, or an error."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from messages import refused
from small_int8 import exported, photographs, record, spec_of

from zoo.errors import ZooError
from zoo.exporter import Precision
from zoo_onnx import int8, precision, size
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import write


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_fp16_and_int8_files_are_smaller_and_close_to_fp32(kind: Precision, tmp_path: Path) -> None:
    kinds: tuple[Precision, ...] = ("fp32", kind)
    plain, small = (spec_of(tmp_path / f"{name}.onnx", name) for name in kinds)
    for spec in (plain, small):
        write(spec)
        assert all(check.passed for check in verify(spec.file, "cpu"))
    shown = list(photographs(40, 3))
    ours, theirs = (open_file(spec.file, "cpu").logits(shown) for spec in (plain, small))
    assert np.abs(theirs - ours).max() < 0.05 * np.abs(ours).max() and (theirs != ours).any()
    assert record(small.file)["name"] == kind
    for batch in (1, 2, 7):  # no batch was pinned
        np.testing.assert_allclose(
            open_file(small.file, "cpu").logits(shown[:batch]), theirs[:batch], rtol=1e-3, atol=1e-3
        )


def test_int8_is_static_and_by_channel(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "int8.onnx", "int8", max_drop=0.5)
    write(spec)
    model = onnx.load(spec.file)
    kinds = {node.op_type for node in model.graph.node}
    assert "QuantizeLinear" in kinds and not kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    scales = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale")}
    depthwise = next(tensor for tensor in weights if list(tensor.dims) == [16, 1, 3, 3])
    assert list(scales[depthwise.name.replace("_quantized", "_scale")].dims) == [16]
    found = record(spec.file)
    assert found["kept_in_fp32"] == [] and found["calibration_images"] == 128
    divergences = found["divergences"]
    assert isinstance(divergences, dict) and set(divergences) == set(int8.METHODS)
    assert divergences[found["method"]] == min(divergences.values())


def test_layers_that_lose_too_much_stay_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    # percentile and entropy would cut the spoilt channel off, which nothing reads
    calibrate = int8._calibrate
    monkeypatch.setattr(int8, "_calibrate", lambda *given: islice(calibrate(*given), 1))
    spec = replace(spec_of(tmp_path / "int8.onnx", "int8", 0.1, spoilt=True), note=notes.append)
    write(spec)
    found = record(spec.file)
    kept = found["kept_in_fp32"]
    # the layer that makes the spoilt channel, and the one that reads it
    assert isinstance(kept, list) and len(kept) == 2 and found["layers"] == 4
    drop = found["drop_on_train"]
    assert isinstance(drop, float) and drop <= 0.1
    assert any("sensitive layers" in note for note in notes)
    monkeypatch.setattr(int8, "_fewest", lambda *_: None)
    with refused(ZooError, "int8", "accuracy", "2 of 4 layers", "0.1"):
        write(spec)


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8])
def test_the_fewest_sufficient_layers_stay_in_fp32(needed: int) -> None:
    asked: list[int] = []

    def lost(count: int) -> float:
        asked.append(count)
        return 0.0 if count >= needed else 0.5

    for most_lost in (0.01, 0.0):  # a loss of just as much is allowed
        asked.clear()
        assert int8._fewest(lost, most_lost, 8) == needed and len(asked) <= 8
    assert int8._fewest(lost, 0.01, needed - 1 or 1) == (1 if needed == 1 else None)


def test_attention_is_left_between_its_products() -> None:
    attends = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Softmax", ["x"], ["y"]), onnx.helper.make_node("Add", ["y", "y"], ["z"])],
            "g",
            [],
            [],
        )
    )
    assert int8._kinds(attends) == list(int8.WEIGHTED)


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        (int8, "WEIGHTED", ("ConvTranspose",), ("layer", "int8")),
        (size, "MAX_BYTES", 1000, ("2 GB", "int8")),
    ],
)
def test_networks_that_cannot_be_quantised_are_errors(
    module: ModuleType,
    name: str,
    value: object,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(tmp_path / "x.onnx", "int8")
    network = exported(spoilt=False)[1].model
    monkeypatch.setattr(module, name, value)
    with refused(ZooError, *words):
        precision.convert(network, spec)


def test_a_graph_that_onnxruntime_refuses_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "x.onnx", "int8")

    def spoil(model: onnx.ModelProto, *given: object) -> onnx.ModelProto:
        spoilt = onnx.ModelProto()
        spoilt.CopyFrom(model)
        spoilt.graph.node[0].op_type = "NoSuchOperator"
        return spoilt

    monkeypatch.setattr(int8, "_quantised", spoil)
    with refused(ZooError, "onnxruntime", "int8", "NoSuchOperator"):
        write(spec)


def test_dynamic_int8_is_named(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    spec = replace(spec_of(tmp_path / "dynamic.onnx", "fp32"), calibration=None)
    write(spec)
    plain = onnx.load(spec.file)
    quantize_dynamic(plain, str(spec.file), op_types_to_quantize=["Conv", "Gemm"])
    failed = {check.name: check.detail for check in verify(spec.file, "cpu") if not check.passed}
    assert failed["precision"].startswith("`ConvInteger`")
