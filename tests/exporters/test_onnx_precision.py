"""fp16 and int8: close to fp32, with layers left in fp32 where they would not be, or an error."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from messages import refused
from small_export import PREPROCESS, small_spec
from torch import nn

from zoo.data.image import normalise
from zoo.errors import ZooError
from zoo.exporter import Calibration, ExportSpec, Precision
from zoo_onnx import int8, precision, size
from zoo_onnx.metadata import KEY_PRECISION, read
from zoo_onnx.network import ExportedNetwork, export_network
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import write


def desaturate(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw the weights anew, in place, so that no processor's int8 kernel can saturate on them.

    Without VNNI, x86 kernels add two products of an unsigned and a signed byte in 16 bits, which overflow from
    255 * (w1 + w2) > 32767 on: Intel 2018, "Lower numerical precision deep learning inference and training". Here each
    output has one negative weight, which sets its scale, and three positive ones of at most half its size: two of them
    come to 128 * 255 = 32640.
    """
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in layer.weight.flatten(1):  # views of the weight's memory
            minus, *plus = torch.randperm(len(row), generator=generator)[:4].tolist()
            row.zero_()
            row[plus] = 0.25 + torch.rand(3, generator=generator) / 4
            row[minus] = -1.0


class Convolutions(nn.Module):
    """Depthwise and pointwise, with bounded activations; `spoilt`: one channel beside which all others vanish."""

    def __init__(self, spoilt: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 3)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                desaturate(layer)
        if spoilt:
            with torch.no_grad():
                self.pointwise.weight[0] *= 0
                assert self.pointwise.bias is not None
                self.pointwise.bias[0] = 1e5
                self.head.weight[:, 0] = 0
        with torch.no_grad():  # every class is somebody's
            self.head.bias.sub_(self(torch.from_numpy(normalise(photographs(64, 9), PREPROCESS))).mean(0) / 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pointwise(self.depthwise(self.stem(images))).mean((2, 3)))
        return logits * 8


def photographs(count: int, seed: int) -> np.ndarray:
    """Blots of colour, which random weights tell apart better than noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@cache
def exported(spoilt: bool) -> tuple[Convolutions, ExportedNetwork]:
    """The network, which no test changes, and its graph in fp32: converting begins where exporting ends."""
    model = Convolutions(spoilt).eval()
    return model, export_network(model, PREPROCESS.crop)


def spec_of(file: Path, kind: Precision, max_drop: float = 0.05, spoilt: bool = False) -> ExportSpec:
    """A spec whose labels are what the network says itself."""
    model, network = exported(spoilt)
    choices = photographs(64, 2)
    with torch.inference_mode():
        labels = model(torch.from_numpy(normalise(choices, PREPROCESS))).argmax(1).numpy()
    calibration = Calibration(ranges=photographs(128, 1), choices=choices, labels=labels)
    return replace(
        small_spec(file, model=model),
        kept={"network": network},
        precision=kind,
        calibration=calibration,
        max_drop=max_drop,
    )


def record(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(read(onnx.load(file))[KEY_PRECISION])
    return found


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

    assert int8._fewest(lost, 0.01, 8) == needed and len(asked) <= 8
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
