"""The laws of exporters hold for the built-in ones, and find those that break them.

The broken ones differ in one function from `npz`, which writes the weights of the small network and is right.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import refused
from with_row import with_row

from zoo.errors import ZooError
from zoo.exporter import Check, Exporter, ExportSpec
from zoo.networks.predictor import TorchPredictor
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.testing import NotChecked, Violation, check_exporter
from zoo.testing.exporter import small_network

SLOW = {"onnx", "openvino"}  # some seconds each, of which tests of their own take most on every push


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ("onnx", "openvino", "pt2")]
)
def test_built_in_exporters(name: str, plugins: Plugins) -> None:
    check_exporter(name, plugins=plugins)


def test_all_built_in_exporters_are_checked(plugins: Plugins) -> None:
    assert {entry.name for entry in plugins.exporters} == {"onnx", "openvino", "pt2", "coreml"}


def pack(spec: ExportSpec, **more: Any) -> bytes:
    """The record and the weights behind a digest of both."""
    weights = io.BytesIO()
    np.savez(weights, **{name: value.numpy() for name, value in spec.model.state_dict().items()})
    record = {"classes": spec.classes, "preprocess": spec.preprocess.to_json(), **more}
    content = json.dumps(record).encode() + b"\n" + weights.getvalue()
    return hashlib.sha256(content).digest() + content


def write(spec: ExportSpec) -> None:
    spec.file.write_bytes(pack(spec))


def read(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ZooError(f"`{file}` is damaged", hint="export the run again")
    line, _, weights = content[32:].partition(b"\n")
    return json.loads(line), weights


def opened(file: Path, device: str) -> TorchPredictor:
    record, weights = read(file)
    model = small_network()
    with np.load(io.BytesIO(weights)) as kept:
        model.load_state_dict({name: torch.from_numpy(kept[name]) for name in kept.files})
    place = torch.device("cpu")
    return TorchPredictor(model, tuple(record["classes"]), Preprocess.from_json(record["preprocess"]), place)


def verify(file: Path, device: str) -> list[Check]:
    read(file)
    return [Check(name="digest", passed=True, detail="SHA-256")]


ROW = Exporter(name="npz", summary="x", suffix=".zoonpz", write=write, open=opened, verify=verify)


def check(row: Exporter) -> None:
    check_exporter(row.name, plugins=with_row("exporters", row))


def test_a_good_exporter_passes() -> None:
    check(ROW)
    check(replace(ROW, annotate=lambda file, parity: None, inspect=lambda file: read(file)[0]))


def changed(**changes: Any) -> Callable[[Path, str], Any]:
    """`opened`, whose predictor has other attributes."""

    def open_file(file: Path, device: str) -> TorchPredictor:
        return replace(opened(file, device), **changes)

    return open_file


class Together:
    """A predictor whose logits depend on the batch that an image is in."""

    device = "cpu"

    def __init__(self, file: Path, device: str) -> None:
        self.inner = opened(file, device)
        self.classes, self.preprocess = self.inner.classes, self.inner.preprocess

    def logits(self, photographs: Any) -> Any:
        found = self.inner.logits(photographs)
        return found - (0.1 if len(photographs) == 1 else 0)


def timed(spec: ExportSpec) -> None:
    spec.file.write_bytes(pack(spec, time=time.perf_counter_ns()))


def beside(spec: ExportSpec) -> None:
    write(spec)
    spec.file.with_suffix(".txt").write_text("weights")


def elsewhere(spec: ExportSpec) -> None:
    spec.file.with_suffix(".other").write_bytes(pack(spec))


def zeroing(spec: ExportSpec) -> None:
    write(spec)
    with torch.no_grad():
        next(spec.model.parameters()).zero_()


def freezing(spec: ExportSpec) -> None:
    write(spec)
    spec.model.requires_grad_(False)


def unchecked(file: Path, device: str) -> list[Check]:
    return [Check(name="there", passed=file.is_file(), detail="")]


def trusting(file: Path, device: str) -> list[Check]:
    with zipfile.ZipFile(io.BytesIO(file.read_bytes()[32:].partition(b"\n")[2])) as archive:
        return [Check(name="archive", passed=archive.testzip() is None, detail="")]


def moved_apart(file: Path, parity: dict[str, Any]) -> None:
    file.write_bytes(b"annotated")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suffix": ".ZOO"}, ("never by its suffix", "`.ZOO`")),
        ({"suffix": ".tar.zoo"}, ("never by its suffix", "`.tar.zoo`")),
        ({"suffix": ".onnx"}, ("opened by `onnx/onnx`", "another suffix")),
        ({"runtimes": {"cpu": "nothing"}}, ("the runtime `nothing`", "no plugin registers")),
        ({"runtimes": {"cpu": "onnxruntime-cpu"}}, ("the runtime `onnxruntime-cpu`", "takes `onnx`")),
        ({"runtimes": {"cuda": "onnxruntime-cuda"}, "devices": ("cpu",)}, ("`cuda`", "none of its `devices`")),
        ({"write": timed}, ("other bytes to `model.zoonpz`", "mtime=0")),
        ({"write": beside}, ("writes `model.txt`", "none of its `beside`")),
        ({"write": elsewhere}, ("does not write `spec.file`", "model.other")),
        ({"write": zeroing}, ("changes the network", "copy.deepcopy")),
        ({"write": freezing}, ("changes the network", "copy.deepcopy")),
        ({"open": changed(classes=("x", "y", "z"))}, ("the classes ('x', 'y', 'z')", "were written")),
        ({"open": changed(preprocess=Preprocess(resize=40, crop=30))}, ("the preprocessing", "was written")),
        ({"open": changed(model=torch.nn.Sequential(small_network(), torch.nn.ReLU()))}, ("from the network's",)),
        ({"open": Together}, ("alone and in a batch", "0.1")),
        ({"verify": lambda file, device: []}, ("`verify` makes no check",)),
        ({"verify": lambda file, device: [Check(name="golden", passed=False, detail="off")]}, ("golden: off",)),
        ({"verify": unchecked}, ("`verify` passes a file", "with another byte", "SHA-256")),
        ({"verify": trusting}, ("`verify` of a file", "zoo.ZooError")),
        ({"annotate": moved_apart}, ("is damaged",)),
        ({"inspect": lambda file: {"written": object()}}, ("`inspect` returns is no JSON",)),
    ],
)  # fmt: skip
def test_a_broken_exporter_is_found(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    row = replace(ROW, name="broken", **changes)
    with pytest.raises((Violation, ZooError)) as caught:
        check(row)
    told = str(caught.value)
    assert all(word in told for word in words) and "\n" not in told.partition("\n\nhint: ")[0], told


def test_what_cannot_be_checked_here_is_told() -> None:
    def missing(spec: ExportSpec) -> None:
        import zoo_no_such_engine  # type: ignore[import-not-found]  # noqa: F401

    for changes, word in (
        ({"write": missing}, "zoo_no_such_engine"),
        ({"devices": ("cuda",)}, "CPU"),
        ({"precisions": ("fp16",)}, "fp32"),
    ):
        with refused(NotChecked, word, "checked" if changes.keys() != {"write"} else "No module"):
            check(replace(ROW, **changes))
