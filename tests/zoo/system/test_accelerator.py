"""Devices beside CUDA and the CPU, of which this machine has none: torch's answers are replaced."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from messages import refused

import zoo
import zoo.system.device
from zoo import UsageError, ZooError
from zoo.runtime import DeviceName
from zoo.system import accelerator
from zoo.system.accelerator import CAPABILITIES, capabilities, find_accelerator, release_memory, synchronise
from zoo.system.device import choose_device, has_fast_bf16
from zoo.system.ranks import join
from zoo_cli.main import run

ROOT = Path(zoo.__file__).parents[1]
CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))


class Machine:
    """A machine with devices of one kind. `calls` are those of torch's module of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, count: int = 2, *, bf16: bool = True) -> None:
        self.calls: list[tuple[object, ...]] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: kind in ("cuda", "rocm"))
        monkeypatch.setattr(torch.xpu, "is_available", lambda: kind == "xpu")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: bf16)
        monkeypatch.setattr(torch.version, "hip", "7.0" if kind == "rocm" else None)
        module = SimpleNamespace(
            device_count=lambda: count,
            synchronize=lambda *of: self.calls.append(("synchronize", *of)),
            empty_cache=lambda: self.calls.append(("empty_cache",)),
        )
        if kind != "mps":  # as torch's
            module.is_bf16_supported = lambda including_emulation: bf16
            module.get_device_name = lambda of: f"Card of {of}"
        monkeypatch.setattr(torch, "get_device_module", lambda of: module)
        monkeypatch.setattr(zoo.system.device, "has_fast_bf16", has_fast_bf16)  # not the answer that others are given


@pytest.mark.parametrize(
    ("has", "asked", "place", "precision", "reason"),
    [
        ("cuda", "auto", "cuda", "bf16", "auto: Card of cuda was found"),
        ("cuda", "cuda:1", "cuda:1", "bf16", "as asked"),
        ("rocm", "auto", "cuda", "bf16", "auto: Card of cuda was found"),
        ("rocm", "rocm:1", "cuda:1", "bf16", "as asked: ROCm, Card of cuda:1"),
        ("rocm", "cuda", "cuda", "bf16", "as asked: ROCm, Card of cuda"),
        ("xpu", "xpu:1", "xpu:1", "bf16", "as asked: XPU, Card of xpu:1"),
        ("xpu", "auto", "cpu", "fp32", "auto: no CUDA device was found; `--device xpu` takes the XPU device"),
        ("mps", "mps", "mps", "fp32", "as asked: MPS, mps"),
        ("mps", "auto", "cpu", "fp32", "auto: no CUDA device was found; `--device mps` takes the MPS device"),
        ("", "auto", "cpu", "fp32", "auto: no CUDA device was found"),
    ],
)
def test_the_device_that_is_chosen_and_why(
    monkeypatch: pytest.MonkeyPatch, has: str, asked: str, place: str, precision: str, reason: str
) -> None:
    Machine(monkeypatch, has)
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    found = choose_device(asked)
    assert (str(found.place), found.precision, found.reason) == (place, precision, reason)


@pytest.mark.parametrize(
    ("has", "asked", "kind", "words"),
    [
        ("", "mps", ZooError, ("`--device mps`", "no MPS device", "it has the CPU")),
        ("cuda", "rocm", ZooError, ("no ROCm device", "CUDA and the CPU")),
        ("mps", "xpu", ZooError, ("no XPU device", "MPS and the CPU")),
        ("xpu", "xpu:2", UsageError, ("there are 2 XPU devices", "numbered from 0")),
    ],
)
def test_a_device_that_is_not_there_is_one_line_that_names_what_is(
    monkeypatch: pytest.MonkeyPatch, has: str, asked: str, kind: type[ZooError], words: tuple[str, ...]
) -> None:
    Machine(monkeypatch, has)
    with refused(kind, *words):
        find_accelerator(DeviceName.parse(asked))


@pytest.mark.parametrize(("has", "asked"), [("mps", "mps"), ("xpu", "xpu")])
def test_bf16_that_the_device_has_not_is_refused(monkeypatch: pytest.MonkeyPatch, has: str, asked: str) -> None:
    Machine(monkeypatch, has, bf16=True)
    assert choose_device(asked, "bf16").precision == "bf16"
    Machine(monkeypatch, has, bf16=False)
    assert choose_device(asked).precision == "fp32"
    with refused(ZooError, f"`{asked}` has no bf16", "--precision fp32"):
        choose_device(asked, "bf16")


def test_calls_go_to_the_module_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "mps")
    for place in (CPU, MPS, CUDA):
        synchronise(place)
    release_memory(CPU)
    release_memory(MPS)
    # that of MPS takes no device, and the CPU has nothing to wait for
    assert machine.calls == [("synchronize",), ("synchronize", CUDA), ("empty_cache",)]


def test_what_a_device_lacks_is_done_without() -> None:
    assert not capabilities(MPS).pins and not capabilities(MPS).float64
    assert capabilities(torch.device("meta")) == accelerator.OTHERS
    assert set(CAPABILITIES) == {"cpu", *(kind for kind, _ in accelerator.KINDS.values())}


def test_ranks_are_refused_where_they_cannot_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with refused(UsageError, "`--device mps`", "CUDA, ROCm or the CPU"):
        join("mps")
    with refused(UsageError, "`--device rocm:1`", "every rank"):
        join("rocm:1")


def test_onnx_files_are_not_run_on_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    assert run(["predict", str(tmp_path / "model.onnx"), "x.jpg", "--device", "xpu"]) != 0
    from zoo_onnx.session import open_session

    with refused(UsageError, "cpu cuda", "`mps`"):
        open_session(b"", "mps", "x")


def test_code_asks_what_a_device_can_and_not_what_it_is_called() -> None:
    """Only these modules may compare a device with the name of one accelerator."""
    allowed = {
        "zoo/runtime.py",
        "zoo/system/accelerator.py",
        "zoo/system/device.py",
        "zoo/system/ranks.py",
        "zoo/latency/measurement.py",  # finds CUDA devices without torch
        "plugins/zoo_runtimes/torch.py",  # TF32 and cuDNN
    }
    branch = re.compile(r"""(type|kind) (==|!=) ["'](cuda|mps|xpu|rocm)["']|torch\.cuda\.(synchronize|empty_cache)""")
    found = {
        str(file.relative_to(ROOT))
        for folder in ("zoo", "plugins", "cli")
        for file in (ROOT / folder).rglob("*.py")
        if branch.search(file.read_text(encoding="utf-8"))
    }
    assert found <= allowed
