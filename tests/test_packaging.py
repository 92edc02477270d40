"""What the wheel holds, and what the tree may not do."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--wheel-dir", target, ROOT],
        check=True,
    )  # fmt: skip
    (found,) = target.glob("*.whl")
    return found


def test_the_wheel_holds_only_zoo(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("zoo")} == {"backbone_zoo-0.1.0.dist-info"}
    for package in ("zoo", "zoo_torchvision", "zoo_timm", "zoo_lite", "zoo_onnx", "zoo_pt2", "zoo_cli"):
        assert f"{package}/__init__.py" in names
    assert "zoo_timm/top1.json" in names and "zoo/py.typed" in names and "zoo/reports/report.html.j2" in names


def test_every_entry_point_is_in_the_wheel(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    modules = re.findall(r"^\w+ = (zoo_\w+)$", archive.read(points).decode(), re.MULTILINE)
    assert len(modules) == 13
    assert all(f"{module}/__init__.py" in archive.namelist() for module in modules)


def test_the_version_stands_in_one_way() -> None:
    import zoo

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == zoo.__version__


def test_source_roots_are_not_packages() -> None:
    for root in ("plugins", "exporters", "cli"):
        assert not (ROOT / root / "__init__.py").exists()


def test_ruff_bans_importing_source_roots(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import plugins\nimport exporters.zoo_onnx\nfrom cli import zoo_cli\n\nprint(plugins, exporters, zoo_cli)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", "--output-format", "concise", bad],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("TID251") == 3


def test_no_verb_shares_its_name_with_a_module() -> None:
    import zoo

    # importing `zoo.export` as a module would put it in the place of the verb `zoo.export`
    modules = {file.stem for file in (ROOT / "zoo").glob("*.py")}
    assert not modules & set(zoo.__all__)
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)
