"""The import contracts of `pyproject.toml` hold, and notice what breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import ROOT

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zoo.training.recipe import Recipe\n"


@pytest.mark.parametrize(
    ("module", "added", "said"),
    [
        ("zoo/data/image.py", "", "3 kept, 0 broken"),
        ("zoo/data/image.py", "from zoo.training import recipe\n", "below it BROKEN"),
        ("zoo/data/image.py", FOR_TYPES, "below it BROKEN"),  # imports for types count
        ("zoo/data/image.py", "from zoo.data import decoding\n", "inside one BROKEN"),
        ("zoo/serving/service.py", "from zoo.training import recipe\n", "needs nothing that trains BROKEN"),
    ],
    ids=["as it is", "upwards", "for types", "a circle in a package", "training in a server"],
)
def test_contracts_notice_imports(module: str, added: str, said: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "zoo", tmp_path / "zoo", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(added)
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout and done.returncode == int(bool(added)), done.stdout + done.stderr
