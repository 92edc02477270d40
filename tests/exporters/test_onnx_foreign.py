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


def colours(
    file: Path, batch: int | str = "N", last: str = "Identity", pinned: int | None = None, bias: float = 0.0
) -> Path:
    """A classifier that says which of red, green and blue there is most of.

    `pinned` is the only batch that it takes, where it says that it takes any; `bias` is added to each score.
    """
    constants = [np.array([2, 3], np.int64), np.array([pinned or -1, 3], np.int64), np.array(bias, np.float32)]
    nodes = [
        helper.make_node("ReduceMean", ["image", "sides"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "shape"], ["mean"]),
        helper.make_node("Add", ["mean", "bias"], ["sum"]),
        helper.make_node(last, ["sum"], ["scores"]),
    ]
    channels = 3 if isinstance(batch, int) else "num_channels"
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(value, name) for name, value in zip(("sides", "shape", "bias"), constants)],
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
@pytest.mark.parametrize("last", ["Identity", "Softmax"])
def test_a_foreign_file_predicts(batch: int | str, last: str, photographs: list[Path], tmp_path: Path) -> None:
    file = colours(tmp_path / "colours.onnx", batch, last)
    found, bad = predict(file, photographs, preprocess=FORM, classes=("red", "green", "blue"))
    assert not bad and [one.top[0][0] for one in found] == ["red", "green", "blue", "red", "green"]
    scores = np.array([220, 20, 20]) / 255
    shares = np.exp(scores) / np.exp(scores).sum()
    assert found[0].top[0][1] == pytest.approx(shares[0], rel=1e-4)  # not softened twice
    assert predict(file, photographs[:1], preprocess=FORM)[0][0].top[0][0] == "0"


def test_logits_that_look_like_probabilities_on_ordinary_images_stay_logits(
    photographs: list[Path], tmp_path: Path
) -> None:
    """Between 0 and 1 for every photograph, as those of a network that is unsure; only louder noise tells."""
    file = colours(tmp_path / "colours.onnx", bias=0.5)
    found, _ = predict(file, photographs[:1], preprocess=FORM, classes=("red", "green", "blue"), top=3)
    scores = np.array([220, 20, 20]) / 255
    shares = np.exp(scores) / np.exp(scores).sum()
    assert [share for _, share in found[0].top] == pytest.approx(list(shares), rel=1e-4)


def brightness(file: Path, last: str, scale: float = 1.0) -> Path:
    """A file with one output: the mean of all pixels, times `scale`."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "sides"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["mean"]),
        helper.make_node(last, ["mean"], ["score"]),
    ]
    constants = {
        "sides": np.array([1, 2, 3], np.int64),
        "scale": np.array(scale, np.float32),
        "shape": np.array([-1, 1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


def test_one_sigmoid_is_the_probability_of_the_second_class(photographs: list[Path], tmp_path: Path) -> None:
    file = brightness(tmp_path / "one.onnx", "Sigmoid", scale=10)
    expected = 1 / (1 + np.exp(-10 * 260 / 255 / 3))
    found, _ = predict(file, photographs[:1], preprocess=FORM, classes=("dark", "bright"), top=2)
    assert [name for name, _ in found[0].top] == ["bright", "dark"]
    assert [share for _, share in found[0].top] == pytest.approx([expected, 1 - expected], rel=1e-3)
    found, _ = predict(brightness(file, "Sigmoid", scale=-10), photographs[:1], preprocess=FORM)
    assert found[0].top[0][0] == "0" and found[0].top[0][1] == pytest.approx(expected, rel=1e-3)
    with refused(ZooError, "one.onnx`", "second of two classes", "1 class", "stands for"):
        predict(file, photographs, preprocess=FORM, classes=("bright",))


@pytest.mark.parametrize("last", ["Identity", "Softmax"])
def test_one_number_that_is_no_probability_is_refused(last: str, photographs: list[Path], tmp_path: Path) -> None:
    with refused(ZooError, "one.onnx`", "one number", "probability", "sigmoid"):
        predict(brightness(tmp_path / "one.onnx", last), photographs, preprocess=FORM)


@pytest.mark.parametrize("batch", ["N", 2])
def test_sigmoids_stay_as_they_are(batch: int | str, photographs: list[Path], tmp_path: Path) -> None:
    file = colours(tmp_path / "colours.onnx", batch, "Sigmoid")
    found, _ = predict(file, photographs[:3], preprocess=FORM, classes=("red", "green", "blue"), top=3)
    shares = 1 / (1 + np.exp(-np.array([220, 20, 20]) / 255))
    assert [share for _, share in found[0].top] == pytest.approx(list(shares), rel=1e-4)
    assert [one.top[0][0] for one in found] == ["red", "green", "blue"]


def test_a_batch_that_is_fixed_in_the_graph(
    photographs: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The declared input takes any batch; onnxruntime reports the failure only when the graph runs."""
    file = colours(tmp_path / "pinned.onnx", pinned=1)
    found, bad = predict(file, photographs, preprocess=FORM, classes=("red", "green", "blue"))
    assert not bad and [one.top[0][0] for one in found] == ["red", "green", "blue", "red", "green"]
    assert capfd.readouterr().err == ""
    with refused(ZooError, "pinned.onnx`", "16 pixels"):
        predict(colours(tmp_path / "pinned.onnx", pinned=3), photographs, preprocess=FORM)


def test_a_file_that_mixes_the_images_of_a_batch(photographs: list[Path], tmp_path: Path) -> None:
    """Its scores are `(classes, N)`, which is `(N, classes)` for one image alone."""
    file = colours(tmp_path / "turned.onnx", last="Transpose")
    found, bad = predict(file, photographs, preprocess=FORM, classes=("red", "green", "blue"))
    assert not bad and [one.top[0][0] for one in found] == ["red", "green", "blue", "red", "green"]


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
    with refused(UsageError, "`a`", "twice", "`--classes`"):
        predict(file, photographs, preprocess=FORM, classes=("a", "b", "a"))
    with refused(UsageError, "run", "`--preprocess`"):
        predict(tmp_path, photographs, preprocess=FORM)


def test_read_preprocess_takes_json_or_a_backbone() -> None:
    plugins = Plugins()
    assert (
        read_preprocess("torchvision/resnet18", plugins)
        == plugins.backbones.find("torchvision/resnet18").value.preprocess
    )
    assert read_preprocess(json.dumps({"crop": 99}), plugins) == Preprocess(crop=99)
    assert read_preprocess(json.dumps({"crop": 99, "fit": "crop"}), plugins) == Preprocess(crop=99)
    padded = {"crop": [32, 64], "fit": "pad", "fill": [1, 2, 3]}
    assert read_preprocess(json.dumps(padded), plugins) == Preprocess().at((32, 64)).fitted("pad", (1, 2, 3))
    for flaw in ({"resize": 0}, {"std": [0, 1, 1]}, {"interpolation": "nearest"}, {"fit": "foo"}, {"mean": [0, 0]}):
        with refused(UsageError, "`--preprocess`", *flaw):
            read_preprocess(json.dumps(flaw), plugins)
    for shifted, value in (({"mean": [123.7, 116.3, 103.5]}, "123.7"), ({"std": [58.4, 57.1, 57.4]}, "58.4")):
        with refused(UsageError, "`--preprocess`", *shifted, value, "0..255"):
            read_preprocess(json.dumps(shifted), plugins)
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
    file.write_bytes("\ufeffants\r\nbees\u2028 x\r\n\r\n".encode())  # of an editor on Windows
    assert read_classes(file) == ("ants", "bees\u2028 x")
    file.write_text("ants\n\nbees")
    with refused(UsageError, "classes.txt`", "line 2"):
        read_classes(file)
    file.write_text("ants\nbees\nants")
    with refused(UsageError, "`ants`", "twice"):
        read_classes(file)
    file.write_bytes("fourmis\nabeilles\né".encode("latin-1"))
    with refused(UsageError, "classes.txt`", "UTF-8"):
        read_classes(file)
