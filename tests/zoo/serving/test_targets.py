"""What `zoo serve --to` writes: Triton's model repository and KServe's InferenceServices."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import UsageError, ZooError
from zoo.plugin import Plugins
from zoo.serving.served_model import Batching, ServedModel
from zoo.serving.target_files import check_target, write_kserve, write_triton
from zoo.serving.targets import (
    Tensor,
    check_storage,
    config_pbtxt,
    inference_service,
    kserve_name,
    labels_text,
    own_service,
    triton_name,
)

RECORD = {
    "inputs": ["photographs uint8 (N, H, W, 3)"],
    "outputs": ["probabilities float (N, 2)", "logits float (N, 2)"],
    "precision": {"name": "fp32"},
}


class Classes:
    """As much of a predictor as targets read."""

    classes = ("red", "blue")


def model(path: Path, size: int = 1, **record: Any) -> ServedModel:
    seconds = {1: 0.01, 2: 0.01, 4: 0.01, 8: 0.002}
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    predictor: Any = Classes()
    return ServedModel(
        name=path.stem,
        path=path,
        digest=digest,
        predictor=predictor,
        record={**RECORD, **record},
        batching=Batching(size=size, seconds=seconds),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "colours.onnx"
    made.write_bytes(b"a model")
    return made


# Names and texts


@given(st.text(max_size=80))
def test_names_are_what_targets_take(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", triton_name(name))
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", kserve_name(name))


@given(st.lists(st.text(), min_size=1))
def test_labels_are_a_line_each(classes: list[str]) -> None:
    text = labels_text(classes)
    assert text.count("\n") == len(classes) and text.endswith("\n")
    assert len(text.splitlines()) == len(classes)


def test_a_tensor_of_another_kind_is_refused() -> None:
    assert Tensor.parse("pixels float (N, 3, 224, 224)").sides == (None, 3, 224, 224)
    with pytest.raises(ZooError, match="cannot be served"):
        Tensor.parse("words")
    for text in ("fixed uint8 (1, 3)", "text string (N)"):
        with pytest.raises(ZooError, match="no batch of any size"):
            Tensor.parse(text).to_pbtxt()


def test_batching_is_configured_where_it_pays(file: Path) -> None:
    plain, paying = (config_pbtxt(model(file, size), "colours") for size in (1, 8))
    assert "dynamic_batching {" not in plain and "saves too little" in plain
    assert "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 0 }" in paying
    assert "batch_size: 8" in paying and "batch_size: 8" not in plain


def test_a_file_that_takes_prepared_pixels(file: Path) -> None:
    text = config_pbtxt(model(file, inputs=["pixels float (N, 3, 224, 224)"]), "colours")
    assert "data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }" in text
    assert text.count("zero_data") == 1  # one size, one way through the graph


@pytest.mark.parametrize("write", [inference_service, own_service])
def test_services_are_yaml(write: Any, file: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with mkdocs")
    made = yaml.safe_load(write(model(file.with_name("true.onnx")), "pvc://claim/models"))
    assert made["apiVersion"] == "serving.kserve.io/v1beta1" and made["kind"] == "InferenceService"
    assert isinstance(made["metadata"]["name"], str)  # and no truth value
    predictor = made["spec"]["predictor"]
    (container,) = predictor.get("containers") or [predictor["model"]]
    assert container["readinessProbe"]["httpGet"]["port"] == 8080
    assert "pvc://claim/models" in str(container)
    if write is inference_service:
        assert container["modelFormat"] == {"name": "onnx"} and container["protocolVersion"] == "v2"
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/true/ready"
    else:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["args"] == ["/mnt/models/true/1/model.onnx"]


def test_a_placeholder_is_named_as_one(file: Path) -> None:
    text = inference_service(model(file), None)
    assert "# Replace it" in text and "s3://YOUR-BUCKET/models" in text
    for bad in ("models", "s3://a b", "s3://\n", ""):
        with pytest.raises(UsageError, match="is not a URI"):
            check_storage(bad)


# Files


def test_a_repository_is_replaced_by_its_models_alone(file: Path, tmp_path: Path, plugins: Plugins) -> None:
    folder = tmp_path / "models"
    (folder / "other").mkdir(parents=True)
    file.with_name("colours.onnx.data").write_bytes(b"weights")
    (made,) = write_triton([model(file)], folder, plugins)
    assert sorted(one.name for one in made.rglob("*")) == [
        "1", "colours.onnx.data", "config.pbtxt", "labels.txt", "model.onnx",
    ]  # fmt: skip
    assert (made / "1/model.onnx").read_bytes() == b"a model"
    (made / "1/stale").touch()
    write_triton([model(file)], folder, plugins)
    assert not (made / "1/stale").exists() and (folder / "other").is_dir()
    assert [one.name for one in folder.iterdir() if one.name.startswith(".")] == []
    with pytest.raises(UsageError, match="not a model of Triton"):
        write_triton([model(Path(shutil.copy(file, tmp_path / "other.onnx")))], folder, plugins)


def test_a_file_that_changed_is_not_written(file: Path, tmp_path: Path, plugins: Plugins) -> None:
    verified = model(file)
    file.write_bytes(b"another")
    with pytest.raises(ZooError, match="changed after it was verified"):
        write_triton([verified], tmp_path / "models", plugins)
    assert list((tmp_path / "models").iterdir()) == []


def test_two_files_of_one_name_there(tmp_path: Path, plugins: Plugins) -> None:
    both = [model(tmp_path / name) for name in ("a b.onnx", "a+b.onnx")]
    with pytest.raises(UsageError, match="both be called `a_b`"):
        write_triton(both, tmp_path / "models", plugins)
    with pytest.raises(UsageError, match="both be called `a-b`"):
        write_kserve(both, tmp_path / "services", None)


def test_what_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file.yaml").touch()
    for kind, name, message in (
        ("triton", "full", "is not empty"),
        ("kserve", "full", "is not empty"),
        ("triton", "full/file.yaml", "is a file"),
        ("kserve", "full/file.yaml", "exists"),
        ("kserve", "none/new.yaml", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            check_target(kind, tmp_path / name, False)
    check_target("triton", tmp_path / "full", True)
    check_target("kserve", tmp_path / "full/file.yaml", True)


# The command


def zoo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoo_cli.main", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_repository_of_a_real_file(exported_run: Path, tmp_path: Path) -> None:
    file = shutil.copy(exported_run / "model.onnx", tmp_path / "my colours.onnx")
    done = zoo(file, "--to", "triton", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models/my_colours"
    assert done.stdout == f"{folder}\n"
    assert (folder / "1/model.onnx").read_bytes() == Path(file).read_bytes()
    assert (folder / "labels.txt").read_text().split() == ["blue", "red"]
    text = (folder / "config.pbtxt").read_text()
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
    found = re.findall(r'^  \{ name: "(\w+)" data_type: (\w+) dims: \[ (.+?) \]', text, re.MULTILINE)
    graph = onnx.load(str(file)).graph
    types = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    expected = []
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        sides = [str(side.dim_value or -1) for side in tensor.shape.dim[1:]]
        expected.append((value.name, types[tensor.elem_type], ", ".join(sides)))
    assert found == expected and found[0] == ("photographs", "TYPE_UINT8", "-1, -1, 3")


def test_a_damaged_file_is_not_written(exported_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    content = bytearray((exported_run / "model.onnx").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)
    done = zoo(file, "--to", "kserve", tmp_path / "service.yaml")
    assert done.returncode == 1 and done.stderr.startswith("Error: ")
    assert not (tmp_path / "service.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "triton", "models", "--port", "8081"), "`--port` is for a server, and `--to` starts none"),
        (("--to", "kserve", "models", "--latency"), "`--latency` is for a server"),
        (("--force",), "`--force` needs `--to`"),
        (("--storage-uri", "s3://a/b"), "`--storage-uri` needs `--to`"),
        (("--to", "triton", "models", "--storage-uri", "s3://a/b"), "`--storage-uri` is for `--to kserve`"),
        (("--to", "kserve", "models", "--storage-uri", "a b"), "is not a URI"),
        (("--to", "ray", "models"), "is not one of `triton`, `kserve`"),
    ],
)
def test_options_without_effect_are_refused(arguments: tuple[str, ...], message: str, file: Path) -> None:
    done = zoo(file, *arguments)
    assert done.returncode == 2 and message in done.stderr
