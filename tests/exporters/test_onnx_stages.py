"""Stage comparison: the first stage, and in the network the first layer, where a file differs from its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from messages import refused
from onnx import numpy_helper
from PIL import Image
from small_export import CLASSES, SmallNet
from torch import nn

from zoo.data.image import decode
from zoo.dataset import Sample
from zoo.exporter import ExportSpec, StageDifference
from zoo.predictions import Predictions
from zoo_onnx import metadata as meta
from zoo_onnx import network
from zoo_onnx.layers import first_apart, outputs_of_modules
from zoo_onnx.preprocessing import MEAN
from zoo_onnx.stages import stages
from zoo_onnx.write import torch_logits, write


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Twelve JPEGs, one of them lying on its side, and a transparent PNG."""
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    found = []
    for number in range(13):
        small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((70 + number, 50), Image.Resampling.BICUBIC)
        file = folder / f"{number:02d}.{'png' if number == 12 else 'jpg'}"
        exif = Image.Exif()
        if number == 3:
            exif[0x0112] = 6
        if number == 12:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(file, exif=exif)
        found.append(Sample(id=file.name, label=CLASSES[number % 3], source=file))
    return tuple(found)


def told(spec: ExportSpec, samples: tuple[Sample, ...], file: Path) -> dict[str, StageDifference]:
    logits = torch_logits(spec, [decode(sample.source) for sample in samples])
    labels = np.array([CLASSES.index(sample.label) for sample in samples])
    ours = Predictions(
        split="val", classes=CLASSES, ids=tuple(sample.id for sample in samples), labels=labels, logits=logits
    )
    return {stage.name: stage for stage in stages(file, "cpu", ours, samples)}


def changed(spec: ExportSpec, name: str, folder: Path, by: float) -> Path:
    """A copy of the file with one constant changed, sealed anew."""
    model = onnx.load(spec.file)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), name))
    file = folder / "changed.onnx"
    file.write_bytes(meta.seal(model))
    return file


def test_an_intact_file_differs_in_no_stage(onnx_spec: ExportSpec, samples: tuple[Sample, ...]) -> None:
    found = told(onnx_spec, samples, onnx_spec.file)
    assert list(found) == ["decode", "resize", "network"] and all(stage.passed for stage in found.values())
    assert found["decode"].largest == 0 and found["resize"].largest <= 2 and found["network"].largest < 1e-4


def test_the_stage_that_was_changed_is_named(
    onnx_spec: ExportSpec, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    found = told(onnx_spec, samples, changed(onnx_spec, MEAN, tmp_path, 0.1))
    assert not found["resize"].passed and found["decode"].passed and found["network"].passed
    weight = next(tensor.name for tensor in onnx.load(onnx_spec.file).graph.initializer if "stem" in tensor.name)
    found = told(onnx_spec, samples, changed(onnx_spec, weight, tmp_path, 0.1))
    assert found["resize"].passed and not found["network"].passed


def test_a_file_without_preprocessing_has_its_network_compared(
    onnx_spec: ExportSpec, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    spec = replace(onnx_spec, file=tmp_path / "outside.onnx", preprocessing="outside")
    write(spec)
    assert [value.name for value in onnx.load(spec.file).graph.input] == ["pixels"]
    found = told(spec, samples, spec.file)
    assert found["network"].passed and found["network"].largest > 0 and "resize" not in found


@pytest.fixture(scope="module")
def traced() -> bytes:
    """The small network's graph, with the names that the exporter gives."""
    content: bytes = network._by_torch_export(SmallNet().eval(), 32).SerializeToString()
    return content


# a convolution is folded into the batch norm behind it, which is what is left to compare
@pytest.mark.parametrize(("layer", "named"), [("stem", "norm"), ("head", "head")])
def test_the_first_differing_layer_is_named(layer: str, named: str, traced: bytes) -> None:
    model = SmallNet().eval()
    exported = onnx.load_from_string(traced)
    ends = outputs_of_modules(exported)
    assert {"norm", "act", "attention", "head"} <= set(ends)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert first_apart(model, exported, ends, pixels, 1e-3) is None
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight").mul_(1.3)
    assert first_apart(model, exported, ends, pixels, 1e-3) == named


def test_the_message_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    export = network._EXPORTERS["torch.export"]

    def wrong(model: torch.nn.Module, side: int) -> onnx.ModelProto:
        found = export(model, side)
        weight = next(one for one in found.graph.initializer if one.name == "head.weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
        return found

    monkeypatch.setattr(network, "_EXPORTERS", {"torch.export": wrong})
    with refused(Exception, "torch.export", "logits", "largest", "layer `head`"):
        network.export_network(SmallNet(), 32)


class Twice(nn.Module):
    """A module that is called twice, as the activation in a block of a ResNet is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 3)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.act(self.two(self.act(self.one(images)))).mean((2, 3)))
        return found


def test_the_last_call_of_a_module_counts() -> None:
    model = Twice().eval()
    exported = network._by_torch_export(model, 32)
    ends = outputs_of_modules(exported)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert first_apart(model, exported, ends, pixels, 1e-3) is None
    with torch.no_grad():
        model.two.weight.mul_(1.5)
    assert first_apart(model, exported, ends, pixels, 1e-3) == "two"
