"""What the program says: each mistake once, in our words, and tables that fit the terminal."""

from __future__ import annotations

import pytest

from zoo.errors import did_you_mean
from zoo_cli.main import run


def zoo(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_hint_that_stands_alone_starts_small() -> None:
    assert did_you_mean("qqq", ["linear"], "see `zoo list`") == "see `zoo list`"
    assert did_you_mean("linera", ["linear"], "see `zoo list`") == "did you mean `linear`? See `zoo list`"


def test_a_provider_alone_is_no_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--strategy", "linear", "--out", "nowhere"]
    code, _, err = zoo(capsys, "train", *arguments, "--backbone", "timm/")
    assert code == 2 and err == "Error: unknown backbone `timm/`\n\nhint: see `zoo list backbones 'timm/*'`\n"


def test_stages_of_a_network_that_meta_cannot_build(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = zoo(capsys, "list", "backbones", "torchvision/regnet_y_400mf", "--stages")
    assert code == 0 and "stem" in err and "head" in err
