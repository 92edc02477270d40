"""What is in a written file."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from messages import refused
from small_export import CLASSES, PREPROCESS, SmallNet, small_spec
from torch import nn

from zoo.errors import ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden import TOLERANCE, Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo_onnx import network
from zoo_onnx.metadata import read
from zoo_onnx.preprocessing import Preprocessing, build_preprocessing
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import torch_logits, write


def photographs() -> list[Any]:
    random = np.random.default_rng(5)
    return [random.integers(0, 256, size, dtype=np.uint8) for size in ((50, 70, 3), (90, 33, 3), (50, 70, 3))]


def test_inputs_and_outputs(onnx_spec: ExportSpec) -> None:
    model = onnx.load(onnx_spec.file)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["photographs"]
    assert [value.name for value in model.graph.output] == ["probabilities", "logits"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["N", "H", "W", 3]
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", 18)]


def test_file_predicts_what_torch_predicts(onnx_spec: ExportSpec) -> None:
    predictor = open_file(onnx_spec.file, "cpu")
    assert predictor.classes == CLASSES
    assert predictor.preprocess == PREPROCESS
    assert predictor.device == "CPUExecutionProvider"
    pictures = [*photographs(), *golden_photographs().values()]
    np.testing.assert_allclose(predictor.logits(pictures), torch_logits(onnx_spec, pictures), atol=0.02)


def test_probabilities_are_the_softmax(onnx_spec: ExportSpec) -> None:
    session = ort.InferenceSession(onnx_spec.file, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(1).integers(0, 256, (7, 45, 60, 3), dtype=np.uint8)
    probabilities, logits = session.run(["probabilities", "logits"], {"photographs": batch})
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)


def test_photographs_of_mixed_sizes_keep_their_order(onnx_spec: ExportSpec) -> None:
    predictor = open_file(onnx_spec.file, "cpu")
    together = predictor.logits(photographs())
    alone = np.concatenate([predictor.logits([photograph]) for photograph in photographs()])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert predictor.logits([]).shape == (0, len(CLASSES))


def test_network_can_be_cut_out_at_pixels(onnx_spec: ExportSpec) -> None:
    part = onnx.utils.Extractor(onnx.load(onnx_spec.file)).extract_model(["pixels"], ["logits"])
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, *PREPROCESS.input_size)
    with torch.inference_mode():
        expected = onnx_spec.model(pixels).numpy()
    np.testing.assert_allclose(session.run(["logits"], {"pixels": pixels.numpy()})[0], expected, atol=1e-4)


def test_metadata(onnx_spec: ExportSpec) -> None:
    metadata = read(onnx.load(onnx_spec.file))
    assert metadata["zoo.schema"] == "1"
    assert json.loads(metadata["zoo.classes"]) == list(CLASSES)
    assert json.loads(metadata["zoo.preprocess"]) == PREPROCESS.to_json()
    assert metadata["zoo.backbone"] == "small"
    assert json.loads(metadata["zoo.metrics"]) == {"accuracy": 0.5}
    assert json.loads(metadata["zoo.exporter"])["name"] == "torch.export"
    assert all(key.startswith("zoo.") for key in metadata)


def test_file_holds_no_path_of_the_machine_that_wrote_it(onnx_spec: ExportSpec) -> None:
    content = onnx_spec.file.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parent).encode() not in content


def test_network_is_left_as_it_was(onnx_spec: ExportSpec) -> None:
    assert isinstance(onnx_spec.model, SmallNet)
    assert onnx_spec.model.act.inplace
    assert torch.backends.mha.get_fastpath_enabled()
    before = SmallNet().eval()
    for name, value in before.state_dict().items():
        assert torch.equal(value, onnx_spec.model.state_dict()[name])


def test_export_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = small_spec(tmp_path / "quiet.onnx", model=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)))
    write(spec)
    assert all(check.passed for check in verify(spec.file, "cpu"))
    assert capfd.readouterr() == ("", "")


def test_class_that_stands_twice_is_refused(tmp_path: Path) -> None:
    spec = replace(small_spec(tmp_path / "twice.onnx"), classes=("ants", "bees", "ants"))
    with refused(ZooError, "class", "`ants`", "twice"):
        write(spec)


def test_model_with_a_pinned_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pinned(model: nn.Module, side: int) -> onnx.ModelProto:
        inputs = (torch.zeros(2, 3, side, side),)
        program = torch.onnx.export(model, inputs, input_names=["pixels"], output_names=["logits"], dynamo=True)
        assert program is not None
        return program.model_proto

    monkeypatch.setattr(network, "_EXPORTERS", {"pinned": pinned})
    with refused(ZooError, "pinned", "batch 1"):
        write(small_spec(tmp_path / "pinned.onnx"))
    assert not (tmp_path / "pinned.onnx").exists()


class Wandering(nn.Module):
    """Branches on its values while it is traced, so that the two exporters differ in what they make of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return means if bool(means.sum() == 0) else means * 2


def test_model_that_differs_from_torch_is_refused_with_the_figure(tmp_path: Path) -> None:
    """torch.export refuses a branch on values; TorchScript keeps the traced one, and is caught by comparing."""
    with refused(ZooError, "torchscript", "batch", "logits", "by 0.5"):
        write(small_spec(tmp_path / "wandering.onnx", model=Wandering()))
    assert not (tmp_path / "wandering.onnx").exists()


def test_torchscript_is_the_second_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, side: int) -> onnx.ModelProto:
        raise RuntimeError("not today")

    monkeypatch.setitem(network._EXPORTERS, "torch.export", broken)
    spec = small_spec(tmp_path / "second.onnx")
    write(spec)
    assert json.loads(read(onnx.load(spec.file))["zoo.exporter"])["name"] == "torchscript"
    assert all(check.passed for check in verify(spec.file, "cpu"))


def test_folder_that_cannot_be_written(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    with refused(ZooError, "missing/small.onnx`", "written", "No such file"):
        write(replace(onnx_spec, file=tmp_path / "missing" / "small.onnx"))


def _answer(given: Any, photographs: Any) -> Any:
    return given


class OnPixels(nn.Module):
    """A random linear layer on all pixels, which averages nothing: a rounded grey level moves its logits a lot."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, len(CLASSES))
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images.flatten(1))
        return logits


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (3, 4))])
def test_rounding_of_a_resize_fails_no_network_and_a_fault_fails_every_one(seed: int, tmp_path: Path) -> None:
    """From 24 to 36 pixels many lie between two grey levels. The bound is what they do to this network."""
    unlucky = replace(PREPROCESS, resize=36, interpolation="bilinear")
    spec = small_spec(tmp_path / "model.onnx", unlucky, OnPixels(seed))
    write(spec)
    assert all(check.passed for check in verify(spec.file, "cpu"))
    golden = Golden.from_json(json.loads(read(onnx.load(spec.file))["zoo.golden"]))
    pictures = list(golden_photographs().values())
    right = torch_logits(spec, pictures)
    assert np.abs(open_file(spec.file, "cpu").logits(pictures) - right).max() > 1e-4 * np.abs(right).max()
    faults = {
        "channels": torch_logits(spec, [picture[:, :, ::-1] for picture in pictures]),
        "interpolation": torch_logits(replace(spec, preprocess=replace(unlucky, interpolation="bicubic")), pictures),
        "size": torch_logits(replace(spec, preprocess=replace(unlucky, resize=37)), pictures),
        "turned": torch_logits(spec, [picture[:, ::-1] for picture in pictures]),
        "two pixels aside": torch_logits(spec, [np.roll(picture, 2, 1) for picture in pictures]),
    }
    for name, answers in faults.items():
        assert not check_golden(golden, CLASSES, partial(_answer, answers)).passed, name


def test_the_bound_of_an_ordinary_network_stays_a_share_of_its_largest_logit(onnx_spec: ExportSpec) -> None:
    golden = Golden.from_json(json.loads(read(onnx.load(onnx_spec.file))["zoo.golden"]))
    largest = max(abs(value) for row in golden.logits.values() for value in row.values())
    assert golden.tolerance == pytest.approx(TOLERANCE * largest, rel=1e-3)


def test_a_wrong_resize_widens_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file resizes by another filter than the run: what that does to the network is not allowed for."""

    def other(preprocess: Preprocess) -> Preprocessing:
        return build_preprocessing(replace(preprocess, interpolation="bilinear"))

    monkeypatch.setattr("zoo_onnx.write.build_preprocessing", other)
    with refused(ZooError, "golden input", "differ"):
        write(small_spec(tmp_path / "model.onnx", PREPROCESS, OnPixels(0)))
