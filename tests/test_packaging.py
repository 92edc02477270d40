"""What the wheels hold, that of a checkout and the two that are released, and what the tree may not do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from wheels import ROOT, SERVE, WHOLE, build_sdist, build_wheel, install, run_installed, third_parties


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(WHOLE, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def serve_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(SERVE, tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def path(wheel: Path, serve_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Both distributions in a folder of their own, and what others they need."""
    folder = tmp_path_factory.mktemp("installed")
    return install(folder / "site", wheel, serve_wheel), third_parties(folder / "others")


def files_of(wheel: Path) -> set[str]:
    """What a wheel installs, without what it says about itself."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheels_hold_what_the_tree_holds_and_no_file_twice(wheel: Path, serve_wheel: Path) -> None:
    ours, theirs = files_of(wheel), files_of(serve_wheel)
    assert not ours & theirs
    tree = {
        str(file.relative_to(ROOT / root))
        for root, pattern in (
            (".", "zoo/**/*"),
            ("plugins", "zoo_*/**/*"),
            ("exporters", "zoo_*/**/*"),
            ("cli", "zoo_*/**/*"),
        )
        for file in (ROOT / root).glob(pattern)
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert ours | theirs == tree
    assert {"zoo_timm/top1.json", "zoo_timm/py.typed"} <= ours
    assert {"zoo/py.typed", "zoo/reports/report.html.j2"} <= theirs


@pytest.mark.parametrize("project", [WHOLE, SERVE], ids=["whole", "serve"])
def test_an_sdist_alone_builds_the_same_wheel(project: Path, wheel: Path, serve_wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build_sdist(project, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()

    def contents(file: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(file) as opened:
            found = {name: opened.read(name) for name in opened.namelist() if not name.endswith("/RECORD")}
        # hatchling finds the licence in an sdist by itself, beside the one that the hook brings
        found = {name: content for name, content in found.items() if "/licenses/" not in name}
        return {name: content.replace(b"License-File: LICENSE\n", b"") for name, content in found.items()}

    assert contents(build_wheel(folder, tmp_path / "wheel")) == contents(wheel if project == WHOLE else serve_wheel)


def test_an_import_package_belongs_to_one_distribution(wheel: Path, serve_wheel: Path) -> None:
    packages = [{name.split("/")[0] for name in files_of(one)} for one in (wheel, serve_wheel)]
    assert not packages[0] & packages[1]
    assert packages[1] == {"zoo", "zoo_cli", "zoo_onnx", "zoo_runtimes"}
    measured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source_pkgs"]
    assert set(measured) == packages[0] | packages[1]


def test_every_entry_point_is_in_its_wheel(wheel: Path, serve_wheel: Path) -> None:
    found = 0
    for one in (wheel, serve_wheel):
        archive = zipfile.ZipFile(one)
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        modules = re.findall(r"^\w+ = (zoo_\w+)$", archive.read(points).decode(), re.MULTILINE)
        assert all(f"{module}/__init__.py" in archive.namelist() for module in modules)
        found += len(modules)
    assert found == 20


def test_the_program_runs_from_the_wheels(path: tuple[Path, ...], tmp_path: Path) -> None:
    program = path[0] / "bin" / "zoo"
    told = run_installed(path, tmp_path, program, "--help")
    assert told.returncode == 0 and "train " in told.stdout, told.stderr
    told = run_installed(path, tmp_path, program, "list", "strategies", "--json")
    assert told.returncode == 0, told.stderr
    assert {"linear", "partial", "lora", "svm"} <= {row["name"] for row in json.loads(told.stdout)}
    assert "could not be loaded" not in told.stderr  # every plugin was loaded for it
    modules = sorted(folder.name for folder in path[0].glob("zoo*"))
    code = f"import json; print(json.dumps([__import__(name).__file__ for name in {modules}]))"
    places = json.loads(run_installed(path, tmp_path, "-c", code).stdout)
    assert len(places) == 21 and all(Path(place).is_relative_to(path[0]) for place in places)


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def test_released_wheels_equal_the_checkout_s() -> None:
    """The root's `pyproject.toml` says everything in one; the two that are released share it between them."""
    import zoo

    root, whole, serve = project(ROOT), project(WHOLE), project(SERVE)
    assert root["version"] == whole["version"] == serve["version"] == zoo.__version__
    assert root["requires-python"] == whole["requires-python"] == serve["requires-python"]
    pin = f"backbone-zoo-serve=={zoo.__version__}"
    assert pin in whole["dependencies"]
    assert sorted(root["dependencies"]) == sorted({*whole["dependencies"], *serve["dependencies"]} - {pin})
    assert not set(whole["dependencies"]) & set(serve["dependencies"])
    points = [one["entry-points"]["zoo.plugins"] for one in (root, whole, serve)]
    assert points[0] == points[1] | points[2] and not set(points[1]) & set(points[2])
    assert root["scripts"] == serve["scripts"] and "scripts" not in whole
    tools = {"dev", "docs"}  # of who works on the tree
    extras = {name: needed for name, needed in root["optional-dependencies"].items() if name not in tools}
    assert whole["optional-dependencies"] == extras
    served = ("grpc", "heif", "dicom")  # of what a server can be told to do
    assert serve["optional-dependencies"] == {name: extras[name] for name in served}
    for said in ("name", "description", "license", "keywords", "classifiers", "authors"):
        assert root[said] == whole[said]
    assert (WHOLE / "hatch_build.py").read_bytes() == (SERVE / "hatch_build.py").read_bytes()


def test_the_container_installs_what_the_distribution_requires() -> None:
    """With the onnxruntime of the CPU; and its build stage copies every package of the distribution."""
    text = (ROOT / "packaging/container-requirements.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    required = {
        one.partition(";")[0] for one in project(SERVE)["dependencies"] if not one.startswith("onnxruntime-gpu")
    }
    assert sorted(required) == sorted(lines)
    said = (ROOT / "packaging/Containerfile").read_text()
    packages = tomllib.loads((SERVE / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["hooks"]["custom"]
    for folder in packages["packages"].values():
        assert f"\nCOPY {folder} /src/{folder}\n" in said
    for rule in ("USER 65532:65532", "STOPSIGNAL SIGTERM", "HEALTHCHECK ", "ORT_DISABLE_TELEMETRY=1"):
        assert rule in said
    assert ":latest" not in said and "ADD " not in said and "sudo" not in said


def test_a_checkout_installs_by_itself(tmp_path: Path, wheel: Path, serve_wheel: Path) -> None:
    """`pip install .` asks no index for a part of this tree."""
    checkout = build_wheel(ROOT, tmp_path)
    assert files_of(checkout) == files_of(wheel) | files_of(serve_wheel)
    for one in (checkout, wheel, serve_wheel):
        archive = zipfile.ZipFile(one)
        assert [name for name in archive.namelist() if name.endswith("/LICENSE")]
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
        assert ("backbone-zoo-serve==" in text) is (one == wheel)
        page = re.sub(r"<!--.*?-->\n*", "", text.partition("\n\n")[2])  # of the index
        assert page.startswith("# ")


def test_training_adds_no_second_onnxruntime() -> None:
    # `onnxruntime` and `onnxruntime-gpu` own the same files: one rule, in one place
    whole = project(WHOLE)
    extras = whole["optional-dependencies"].values()
    named = [*whole["dependencies"], *(one for extra in extras for one in extra)]
    assert not [one for one in named if one.startswith("onnxruntime")]


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
