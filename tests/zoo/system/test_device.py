"""Device and precision: explicit choices are kept; `auto` times bf16 on a CPU once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo.system.device
from zoo import UsageError, ZooError
from zoo.system.device import _bf16_pays, choose_device, has_fast_bf16


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
    """A processor that reports bf16; the list holds the results of the timings, in order."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(zoo.system.device, "has_fast_bf16", has_fast_bf16)  # not the answer that other tests are given
    answers: list[bool] = []
    monkeypatch.setattr(zoo.system.device, "_bf16_pays", lambda: answers.pop(0))
    return answers


@pytest.mark.parametrize("pays", [True, False])
def test_auto_times_bf16_once_and_stores_the_result(processor: list[bool], pays: bool) -> None:
    processor += [pays, not pays]
    assert choose_device("cpu").precision == ("bf16" if pays else "fp32")
    assert has_fast_bf16(torch.device("cpu")) is pays and len(processor) == 1


def test_another_processor_is_timed_again(processor: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    processor += [True, False]
    assert choose_device("cpu").precision == "bf16"
    monkeypatch.setattr(zoo.system.device, "machine", lambda: {"processor": "another"})
    assert choose_device("cpu").precision == "fp32"


def test_an_explicit_precision_is_not_timed(processor: list[bool]) -> None:
    for asked in ("bf16", "fp32"):
        assert choose_device("cpu", asked).precision == asked


def test_without_bf16_nothing_is_tried(processor: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert choose_device("cpu").precision == "fp32"


def test_timing_bf16_preserves_the_random_state() -> None:
    before = torch.get_rng_state()
    assert _bf16_pays() in (True, False)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "mps:1", ""])
def test_unknown_devices_are_usage_errors(asked: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        choose_device(asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_an_error(monkeypatch: Any) -> None:
    with pytest.raises(ZooError, match="no CUDA device"):
        choose_device("cuda")
