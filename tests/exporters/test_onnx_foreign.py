"""ONNX files that zoo did not write: prediction with a given preprocessing, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from messages import refused
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from zoo import Plugins, UsageError, ZooError, predict
from zoo.exporter import ExportSpec
from zoo.inference.prediction import read_classes, read_preprocess
from zoo.preprocess import Preprocess

FORM = Preprocess(resize=16, crop=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def colours(file: Path, batch: int | str = "N", softmax: bool = False) -> Path:
    """A classifier that says which of red, green and blue there is most of."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "sides"], ["mean"], keepdims=0),
        helper.make_node("Softmax" if softmax else "Identity", ["mean"], ["scores"]),
    ]
    channels = 3 if isinstance(batch, int) else "num_channels"
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.array([2, 3], np.int64), "sides")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    found = []
    for number in range(5):
        colour = [20, 20, 20]
        colour[number % 3] = 220
        found.append(tmp_path / f"{number}.png")
        Image.new("RGB", (30 + number, 20), tuple(colour)).save(found[-1])
    return found


@pytest.mark.parametrize("batch", ["batch_size", 1, 2, 32])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_foreign_file_predicts(batch: int | str, softmax: bool, photographs: list[Path], tmp_path: Path) -> None:
    file = colours(tmp_path / "colours.onnx", batch, softmax)
    found, bad = predict(file, photographs, preprocess=FORM, classes=("red", "green", "blue"))
    assert not bad and [one.top[0][0] for one in found] == ["red", "green", "blue", "red", "green"]
    scores = np.array([220, 20, 20]) / 255
    shares = np.exp(scores) / np.exp(scores).sum()
    assert found[0].top[0][1] == pytest.approx(shares[0], rel=1e-4)  # not softened twice
    assert predict(file, photographs[:1], preprocess=FORM)[0][0].top[0][0] == "0"


def test_unsupported_uses_are_errors(photographs: list[Path], tmp_path: Path) -> None:
    file = colours(tmp_path / "colours.onnx")
    with refused(ZooError, "colours.onnx`", "`zoo.schema`") as error:
        predict(file, photographs)
    assert error.value.hint is not None and "--preprocess" in error.value.hint
    with refused(ZooError, "colours.onnx`", "3", "2 classes"):
        predict(file, photographs, preprocess=FORM, classes=("a", "b"))
    with refused(ZooError, "colours.onnx`", "224 pixels", "`crop`"):
        predict(file, photographs, preprocess=Preprocess())
    with refused(UsageError, "`--classes`", "files", "`--preprocess`"):
        predict(file, photographs, classes=("a",))
    with refused(UsageError, "run", "`--preprocess`"):
        predict(tmp_path, photographs, preprocess=FORM)


def test_read_preprocess_takes_json_or_a_backbone() -> None:
    plugins = Plugins()
    assert (
        read_preprocess("torchvision/resnet18", plugins)
        == plugins.backbones.find("torchvision/resnet18").value.preprocess
    )
    assert read_preprocess(json.dumps({"crop": 99}), plugins) == Preprocess(crop=99)
    for flaw in ({"resize": 0}, {"std": [0, 1, 1]}, {"interpolation": "nearest"}, {"fit": "foo"}, {"mean": [0, 0]}):
        with refused(UsageError, "`--preprocess`", *flaw):
            read_preprocess(json.dumps(flaw), plugins)
    for text, words in (
        ('{"crop"', ("`--preprocess`", "delimiter")),
        ('{"size": 3}', ("`--preprocess`", "`size`")),
        ("resnet19", ("backbone", "`resnet19`")),
    ):
        with refused(UsageError, *words):
            read_preprocess(text, plugins)


def test_a_zoo_file_takes_no_preprocess(onnx_spec: ExportSpec, photographs: list[Path]) -> None:
    with refused(ZooError, "small.onnx`", "`--preprocess`"):
        predict(onnx_spec.file, photographs, preprocess=FORM)


def test_classes_are_text(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("ants\nbees\n")
    assert read_classes(file) == ("ants", "bees")
    file.write_bytes("fourmis\nabeilles\né".encode("latin-1"))
    with refused(UsageError, "classes.txt`", "UTF-8"):
        read_classes(file)
