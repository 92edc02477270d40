"""Start-up: what the light commands import, asked of a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "onnx", "sklearn", "scipy")

PROBE = """
import json, sys
from zoo_cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(set(sys.modules) & set({heavy!r}))]), file=sys.stderr)
"""


def probe(*arguments: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments], capture_output=True, text=True, check=True
    )
    code, heavy = json.loads(done.stderr.splitlines()[-1])
    return code, heavy, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("list", "strategies"),
        ("list", "datasets"),
        ("list", "metrics"),
        ("list", "exporters", "--json"),
        ("list", "runtimes"),
        ("train", "--help"),
        ("bench", "--help"),
        ("export", "--help"),
        ("verify", "--help"),
        ("predict", "--help"),
        ("evaluate", "--help"),
        ("compare", "--help"),
    ],
)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code, heavy, _ = probe(*arguments)
    assert (code, heavy) == (0, [])


def test_listing_backbones_imports_no_library_once_the_rows_are_remembered() -> None:
    probe("list", "backbones", "resnet18", "--json")
    code, heavy, out = probe("list", "backbones", "resnet18", "--json")
    assert (code, heavy) == (0, [])
    assert [row["qualified"] for row in json.loads(out)] == ["torchvision/resnet18", "timm/resnet18"]


def test_plugins_imports_no_library_once_the_rows_are_remembered() -> None:
    probe("plugins", "--json")
    code, heavy, out = probe("plugins", "--json")
    assert (code, heavy) == (0, [])
    assert {row["status"] for row in json.loads(out)} == {"ok"}


def test_completion_offers_commands() -> None:
    code = "from zoo_cli.main import program; program(prog_name='zoo')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": "zoo tr", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "plain,train" in done.stdout
