"""The laws of runtimes hold for the built-in ones, and find those that break them.

The broken ones stand in a module that the worker process can import, and differ in one place from `plain`, which is
right.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from with_row import with_row

from zoo.plugin import Plugins
from zoo.runtime import Runtime
from zoo.testing import NotChecked, Violation, check_runtime

SLOW = {"torch-compiled", "openvino", "openvino-ir"}  # the first compiles for a minute
HERE = ("torch-eager", "torch-compiled", "onnxruntime-cpu", "openvino", "openvino-ir")
ELSEWHERE = ("onnxruntime-cuda", "onnxruntime-tensorrt")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in HERE])
def test_built_in_runtimes(name: str, plugins: Plugins) -> None:
    check_runtime(name, plugins=plugins)


def test_built_in_runtimes_of_other_devices(plugins: Plugins) -> None:
    assert {entry.name for entry in plugins.runtimes} == {*HERE, *ELSEWHERE, "onnxruntime-web"}
    for name in ELSEWHERE:
        with pytest.raises(NotChecked, match="cuda"):
            check_runtime(name, plugins=plugins)


AVAILABLE = """
def available(device):
    return None

def importing(device):
    import onnxruntime

def asked(device):
    return True
"""

MODULE = """
import onnx, onnxruntime
from zoo.errors import ZooError
from zoo.runtime import Input

class Plain:
    notes, provider = (), "CPU"
    input = Input(dtype="float32", shape=(3, 32, 32))

    def __init__(self, work):
        network = onnx.utils.Extractor(onnx.load(work.target)).extract_model(["pixels"], ["logits"])
        self.session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
        self.calls = self.callers = 0

    def run(self, batch):
        return self.session.run(["logits"], {"pixels": batch})[0]

    def prepare(self, batch):
        return lambda: self.run(batch)

class Centred(Plain):  # the mean over the batch is taken off, as a batch norm in training mode does
    def run(self, batch):
        found = super().run(batch)
        return found - found.mean(0) if len(found) > 1 else found

class Drifting(Plain):
    def run(self, batch):
        self.calls += 1
        return super().run(batch) + 0.1 * self.calls

class Shared(Plain):  # one buffer for all callers' inputs
    def prepare(self, batch):
        self.callers += 1
        mine = self.callers
        return lambda: self.run(batch) + (0.1 if mine == 2 else 0)

class Overwriting(Plain):
    def run(self, batch):
        found = super().run(batch)
        batch[:] = 0
        return found

class Silent(Plain):
    def prepare(self, batch):
        return lambda: self.run(batch) is None

class Rounded(Plain):
    def run(self, batch):
        return super().run(batch).round(1)

class Transposed(Plain):
    def run(self, batch):
        return super().run(batch).T

class Nameless(Plain):
    provider = " "

class Square(Plain):
    input = Input(dtype="float32", shape=(3, 31, 32))

class NoNotes(Plain):
    notes = None

class Listed(Plain):  # right: several outputs, the logits first
    def run(self, batch):
        found = super().run(batch)
        return [found, found.argmax(1)]

class Named(Plain):  # right
    def run(self, batch):
        return {"logits": super().run(batch)}

class One(Plain):  # right: a file that takes one image
    input = Input(dtype="float32", shape=(3, 32, 32), fixed_batch=1)

def dying(work):
    import os
    os._exit(7)

def refusing(work):
    raise ZooError("it would run elsewhere", hint="mend it")

def failing(work):
    raise KeyError("session")
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "strange_runtimes.py").write_text(MODULE)
    (folder / "here.py").write_text(AVAILABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


PLAIN = Runtime(
    name="broken",
    summary="x",
    accepts="onnx",
    devices=("cpu",),
    available="here:available",
    load="strange_runtimes:Plain",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that every runtime below loads, written once."""
    from zoo.exporter import ExportSpec
    from zoo.preprocess import Preprocess
    from zoo.testing.exporter import small_network
    from zoo_onnx.write import write

    file = tmp_path_factory.mktemp("file") / "model.onnx"
    write(ExportSpec(model=small_network(), preprocess=Preprocess(resize=32, crop=32), classes=("a", "b", "c"),
                     metadata={}, file=file))  # fmt: skip
    return file


@pytest.fixture(autouse=True)
def same_file(written: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.testing import runtime
    from zoo.testing.exporter import small_network

    if "built_in" not in request.node.name:
        monkeypatch.setattr(runtime, "_subject", lambda *_: (written, small_network(), (32, 32)))


@pytest.mark.parametrize("name", ["Plain", "Listed", "Named", "One"])
def test_a_good_runtime_passes(name: str) -> None:
    check_runtime("broken", plugins=with_row("runtimes", replace(PLAIN, load=f"strange_runtimes:{name}")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accepts": "onx"}, ("accepts `onx`", "neither `run`")),
        ({"available": "here:importing"}, ("`available` imports onnxruntime", "find_spec")),
        ({"available": "here:asked"}, ("`available` returns True", "None if it can")),
        ({"load": "Centred"}, ("differ",)),
        ({"load": "Drifting"}, ("differ",)),
        ({"load": "Shared"}, ("from caller to caller", "0.1")),
        ({"load": "Overwriting"}, ("changes its input",)),
        ({"load": "Silent"}, ("returns a `bool`", "return the outputs")),
        ({"load": "Rounded"}, ("differ from the network's",)),
        ({"load": "Transposed"}, ("differ from the network's",)),
        ({"load": "Nameless"}, ("names no provider",)),
        ({"load": "Square"}, ("(N, 3, 31, 32)", "(N, 3, 32, 32)")),
        ({"load": "NoNotes"}, ("`notes`", "a list of texts")),
        ({"load": "dying"}, ("its load fails", "status 7")),
        ({"load": "refusing"}, ("its load fails: it would run elsewhere", "mend it")),
        ({"load": "failing"}, ("its load fails: KeyError", "session")),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_broken_runtime_is_found(changes: dict[str, str], words: tuple[str, ...]) -> None:
    changes = {name: f"strange_runtimes:{value}" if name == "load" else value for name, value in changes.items()}
    with pytest.raises(Violation) as caught:
        check_runtime("broken", plugins=with_row("runtimes", replace(PLAIN, **changes)))  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words) and "\n" not in caught.value.message, str(caught.value)


def test_a_runtime_that_is_not_available_is_told() -> None:
    row = replace(PLAIN, available=lambda device: "there is no such chip")
    with pytest.raises(NotChecked, match="there is no such chip"):
        check_runtime("broken", plugins=with_row("runtimes", row))
