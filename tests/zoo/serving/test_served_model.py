"""Files are served only if they verify; batches are used only where they pay."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from zoo import Plugins, UsageError, ZooError
from zoo.exporting.golden_inputs import golden_photographs
from zoo.predictor import Predictor
from zoo.preprocess import Preprocess
from zoo.serving import served_model
from zoo.serving.served_model import open_served
from zoo_onnx import serve
from zoo_onnx.serve import open_to_serve
from zoo_onnx.session import open_file


def opened(path: Path, plugins: Plugins) -> Any:
    return open_served(path, name="model", device="cpu", threads=1, plugins=plugins)


def test_a_file_that_verifies_is_served(exported_run: Path, plugins: Plugins) -> None:
    file = exported_run / "model.onnx"
    model = opened(file, plugins)
    alone = open_file(file, "cpu")
    images = list(golden_photographs().values())
    assert model.classes == alone.classes and model.precision == "fp32" and model.provider == "CPUExecutionProvider"
    for image in images:
        assert np.array_equal(model.predictor.logits([image]), alone.logits([image]))
    assert len(model.digest) == 64 and model.record["zoo"] is True
    assert set(model.batching.seconds) == set(served_model.BATCH_SIZES)


def test_a_changed_file_is_not(exported_run: Path, plugins: Plugins, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    model = onnx.load(str(exported_run / "model.onnx"))
    weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = bytes(255 - byte for byte in weights.raw_data)
    onnx.save(model, str(file))
    with pytest.raises(ZooError, match="is not served, since it fails verification: integrity"):
        opened(file, plugins)
    shutil.copy(exported_run / "model.onnx", file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ZooError, match=r"is not served: .* is not an ONNX file, or is truncated"):
        opened(file, plugins)
    with pytest.raises(UsageError, match="there is no file"):
        opened(tmp_path / "none.onnx", plugins)
    file.rename(tmp_path / "model.pt2")
    with pytest.raises(UsageError, match="`pt2` files cannot be served"):
        opened(tmp_path / "model.pt2", plugins)


def test_the_session_that_serves_is_checked_too(
    exported_run: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification runs in a process of its own, so what serves must give the golden logits again."""
    found = served_model._verify(exported_run / "model.onnx", "cpu", 1, None)
    monkeypatch.setattr(served_model, "_verify", lambda *arguments: found)
    target = next(entry.value for entry in plugins.exporters if entry.name == "onnx").serve

    def spoilt(path: Path, *rest: Any) -> Predictor:
        right = open_to_serve(path, *rest)

        class Spoilt:
            classes, preprocess, device = right.classes, right.preprocess, right.device

            def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
                return right.logits(photographs) + np.float32(1.0)

        return Spoilt()

    monkeypatch.setattr(served_model, "load_target", lambda one: spoilt if one == target else one)
    with pytest.raises(ZooError, match="is not served: golden inputs"):
        opened(exported_run / "model.onnx", plugins)


def test_a_file_that_was_verified_is_checked_in_the_session_alone(
    exported_run: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server process that is started again knows what the one before it verified, by the digest of the file."""
    file = Path(shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx"))
    first = opened(file, plugins)
    known: dict[str, Any] = {"measured": {first.digest: first.batching}, "verified": {first.digest: first.record}}

    def again() -> Any:
        return open_served(file, name="model", device="cpu", threads=1, plugins=plugins, **known)

    def fails(*arguments: Any) -> None:
        raise ZooError("verified again")

    monkeypatch.setattr(served_model, "_verify", fails)
    second = again()
    assert second.record == first.record and second.batching == first.batching
    checked: list[Path] = []
    monkeypatch.setattr(served_model, "_check_golden", lambda path, *rest: checked.append(path))
    again()
    assert checked == [file]
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ZooError, match="verified again"):
        again()


def test_a_file_that_changes_meanwhile_is_not(
    exported_run: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx")
    check = served_model._check_golden

    def changing(*arguments: Any) -> None:
        check(*arguments)
        Path(file).write_bytes(Path(file).read_bytes() + b"\0")

    monkeypatch.setattr(served_model, "_check_golden", changing)
    with pytest.raises(ZooError, match="changed while it was opened"):
        opened(Path(file), plugins)


class Timed:
    """A predictor whose calls take as long as a test says, by batch size."""

    classes: tuple[str, ...] = ("a", "b")
    preprocess: Preprocess
    device = "none"

    def __init__(self, seconds: dict[int, list[float]], clock: list[float]) -> None:
        self.seconds, self.clock, self.calls = seconds, clock, dict.fromkeys(seconds, 0)

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        size = len(photographs)
        each = self.seconds[size]
        self.clock[0] += each[self.calls[size] % len(each)] * size
        self.calls[size] += 1
        return np.zeros((size, 2), np.float32)


@pytest.mark.parametrize(
    ("each", "size"),
    [
        ({1: [1.0], 2: [0.95], 4: [0.93], 8: [0.92]}, 1),  # a gain of less than a tenth
        ({1: [1.0], 2: [0.7], 4: [0.5], 8: [0.6]}, 8),  # the largest that pays
        ({1: [1.0], 2: [0.7], 4: [1.2], 8: [2.0]}, 2),
        ({1: [1.0], 2: [0.5, 1.5, 1.5], 4: [1.0], 8: [1.0]}, 1),  # another program disturbed it: not faster each time
    ],
)
def test_batches_are_used_where_they_pay(
    each: dict[int, list[float]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("zoo.serving.served_model.time.perf_counter", lambda: clock[0])
    batching = served_model._measure_batching(Timed(each, clock))
    assert batching.size == size
    assert ("saves too little" in str(batching)) == (size == 1)
    assert f"up to {size} " in str(batching)


def test_images_of_all_sizes_share_a_call_of_the_network(exported_run: Path) -> None:
    """The file cut at the network's input gives the logits of the whole file."""
    file = exported_run / "model.onnx"
    cut, whole = open_to_serve(file, "cpu", 1, True), open_to_serve(file, "cpu", 1, False)
    images = [image for image in golden_photographs().values() for _ in range(12)]  # more than one batch
    np.testing.assert_allclose(cut.logits(images), whole.logits(images), atol=1e-5)
    assert cut.classes == whole.classes and cut.device == whole.device and cut.preprocess == whole.preprocess
    with pytest.raises(ZooError, match="does not run on 1 images"):
        cut.logits([np.zeros((0, 4, 3), np.uint8)])


def test_a_file_that_pillow_prepares_images_for_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph begins at the network's input."""
    whole = SimpleNamespace(inside=False)
    monkeypatch.setattr(serve, "open_file", lambda *given: whole)
    assert serve.open_to_serve(tmp_path / "model.onnx", "cpu", 1, True) is whole
