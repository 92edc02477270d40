"""A device as it is asked for is read in one place, the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import UsageError
from zoo.latency.measurement import _check_device
from zoo.runtime import DeviceName, Workload
from zoo.system.device import choose_device
from zoo_onnx.session import open_session


@pytest.mark.parametrize(
    ("text", "kind", "index"),
    [
        ("auto", "auto", 0),
        ("cpu", "cpu", 0),
        ("cuda", "cuda", 0),
        ("cuda:12", "cuda", 12),
        ("xpu:1", "xpu", 1),
        ("mps", "mps", 0),
    ],
)
def test_names_are_read_and_written(text: str, kind: str, index: int) -> None:
    name = DeviceName.parse(text)
    assert (name.kind, name.index, str(name)) == (kind, index, text)
    assert Workload(target=Path("x"), device=text).ordinal == index


@pytest.mark.parametrize(
    "text", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1.5", "cpu:0", "auto:1", " cpu", "cuda:1 ", "mps:0", "xpu:"]
)
def test_invalid_device_names_raise_the_same_error(text: str) -> None:
    for ask in (
        DeviceName.parse,
        choose_device,
        _check_device,
        lambda device: open_session(b"", device, "x"),
    ):
        with pytest.raises(UsageError, match="unknown device") as error:
            ask(text)
        assert f"`{text}`" in str(error.value)
