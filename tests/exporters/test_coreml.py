"""Core ML packages: written, read back, their weights compared; never called verified where they cannot be executed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from messages import refused
from small_export import CLASSES, small_spec
from torch import nn

from zoo.errors import UsageError, ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.target_files import move_into_place, size_of
from zoo.plugin import PluginCandidate, Plugins, installed_candidates
from zoo_coreml import package
from zoo_coreml.package import MACOS_ONLY, PROGRAM, WEIGHTS, constants, open_file, read_record, verify, write
from zoo_coreml.weights import expected_weights, missing_weight, traced

pytest.importorskip("coremltools")

NAMES = ["integrity", "weights", "interface", "program", "golden inputs"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    found = small_spec(tmp_path_factory.mktemp("coreml") / "small.mlpackage")
    write(found)
    return found


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "why_not_executable", lambda: MACOS_ONLY)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    """The installed plugins, with this exporter where the installation is older than it."""
    candidates = installed_candidates()
    if not any(one.name == "coreml" for one in candidates):
        import zoo_coreml

        point = SimpleNamespace(name="coreml", value="zoo_coreml", load=lambda: zoo_coreml)
        candidates.append(PluginCandidate("coreml", "backbone-zoo", "0.1", point))
    return Plugins(candidates)


def test_a_package_is_checked_as_far_as_it_can_be(spec: ExportSpec, linux: None) -> None:
    checks = verify(spec.file, "auto")
    assert [check.name for check in checks] == NAMES
    assert [check.passed for check in checks] == [True, True, True, True, False]
    assert checks[-1].skipped and checks[-1].detail == f"not compared: {MACOS_ONLY}"
    assert checks[2].detail == "pixels (1, 3, 32, 32), logits (1, 3)"
    assert read_record(spec.file)["classes"] == list(CLASSES)
    with refused(ZooError, MACOS_ONLY, "small.mlpackage"):
        open_file(spec.file, "cpu")
    with refused(UsageError, "Core ML", "`cuda`"):
        open_file(spec.file, "cuda")


def test_every_weight_is_in_the_package_and_a_changed_one_is_missed(spec: ExportSpec) -> None:
    torch.manual_seed(0)
    program = traced(spec.model, (32, 32))
    expected = expected_weights(program)
    assert {"stem.weight", "stem.weight (bias)", "head.weight", "head.bias"} < set(expected)
    assert not any(name.startswith("norm.") for name in expected)  # folded into the convolution
    held = constants(spec.file)
    assert missing_weight(expected, held) is None
    for name, weight in expected.items():
        changed = weight.copy()
        changed.ravel()[0] += 1e-3 * np.abs(weight).max()
        assert missing_weight({**expected, name: changed}, held) == name


def test_a_weight_that_the_package_lacks_refuses_the_export(
    spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        package, "constants", lambda path: [one * 2 for one in constants(path) if one.dtype.kind == "f"]
    )
    with refused(ZooError, "stem.weight", "not in the Core ML package"):
        write(small_spec(tmp_path / "x.mlpackage"))


def test_two_exports_are_equal(spec: ExportSpec, tmp_path: Path) -> None:
    write(small_spec(tmp_path / "small.mlpackage"))
    files = sorted(file.relative_to(spec.file) for file in spec.file.rglob("*") if file.is_file())
    assert {PROGRAM, WEIGHTS} < set(files)
    for name in files:
        assert (tmp_path / "small.mlpackage" / name).read_bytes() == (spec.file / name).read_bytes(), name


@pytest.mark.parametrize(("part", "name"), [(PROGRAM, "integrity"), (WEIGHTS, "weights")])
def test_a_changed_package_fails_verification(spec: ExportSpec, part: Path, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "x.mlpackage"
    shutil.copytree(spec.file, copy)
    content = (copy / part).read_bytes()
    changed = content.replace(b"Apache-2.0", b"Apache-3.0") if part == PROGRAM else content[:-9] + b"\1" + content[-8:]
    (copy / part).write_bytes(changed)
    assert [check.name for check in verify(copy, "cpu") if not check.passed] == [name]


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mlpackage").mkdir()
    with refused(ZooError, "x.mlpackage`", "not a Core ML package"):
        verify(tmp_path / "x.mlpackage", "cpu")


def test_a_network_that_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.special.bessel_j0(images)
            return found.mean((2, 3))

    with refused(ZooError, "cannot be converted to Core ML", "--to onnx"):
        write(small_spec(tmp_path / "x.mlpackage", model=Odd()))


def test_a_folder_replaces_an_older_one(spec: ExportSpec, tmp_path: Path, plugins: Plugins) -> None:
    exporter = plugins.exporters.find("coreml").value
    target = tmp_path / "model.mlpackage"
    for _ in range(2):
        fresh = tmp_path / "new" / "model.mlpackage"
        shutil.copytree(spec.file, fresh)
        assert size_of(fresh) == sum(file.stat().st_size for file in spec.file.rglob("*") if file.is_file())
        move_into_place(fresh, target, exporter)
    assert (target / PROGRAM).is_file() and not (tmp_path / "new" / "model.mlpackage").exists()
