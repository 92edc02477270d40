"""`backbone-zoo-serve`, installed alone where there is no torch: docs/decisions/serve-distribution.md."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import COLOURS, paint
from wheels import SERVE, build_wheel, install, run_installed, third_parties

from zoo.exporter import ExportSpec
from zoo.networks.predictor import TorchPredictor
from zoo.unknown import fit_unknown

# What `backbone-zoo` or an extra requires and `backbone-zoo-serve` does not, by the names that are imported
ABSENT = ("torch", "torchvision", "timm", "sklearn", "scipy", "onnxscript", "jinja2", "openvino", "grpc")

# Modules of the wheel that cannot be imported without those. All others can; one that needs them no longer has to go
NEEDS_MORE = (
    "zoo.advice.domain_distance",
    "zoo.advice.probing",
    "zoo.combining.ensemble",
    "zoo.combining.making",
    "zoo.combining.soup",
    "zoo.data.augmentation",
    "zoo.embedding",
    "zoo.feature_cache",
    "zoo.networks",
    "zoo.system.accelerator",
    "zoo.system.clamping",
    "zoo.system.denormals",
    "zoo.system.depthwise",
    "zoo.system.device",
    "zoo.system.fast_gradients",
    "zoo.system.spinning",
    "zoo.serving.grpc_server",
    "zoo.studies.solved_space",
    "zoo.testing.augmentation",
    "zoo.testing.backbone",
    "zoo.testing.exporter",
    "zoo.testing.loss",
    "zoo.testing.optimizer",
    "zoo.testing.runtime",
    "zoo.testing.strategy",
    "zoo.training",
    "zoo_onnx.frozen_part",
    "zoo_onnx.int8",
    "zoo_onnx.layers",
    "zoo_onnx.network",
    "zoo_onnx.write",
    "zoo_runtimes.openvino",
    "zoo_runtimes.torch",
)

# Blocked as well as absent, so that the test says the same where another copy is on the path
BLOCK = "import sys\nfor name in ('torch', 'torchvision', 'timm'):\n    sys.modules[name] = None\n"

IMPORT_ALL = """
import importlib, json, pkgutil
import zoo, zoo_cli, zoo_onnx, zoo_runtimes
failed = {}
for package in (zoo, zoo_cli, zoo_onnx, zoo_runtimes):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = error.name
print(json.dumps([zoo.__file__, failed]))
"""

COMMAND = "from zoo_cli.main import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """What can be imported on a machine that serves: the distribution, and what is no part of training."""
    wheel = build_wheel(SERVE, tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("machine")
    return install(folder / "site", wheel), third_parties(folder / "others", ABSENT)


def test_its_modules_import_without_torch(path: tuple[Path, ...], tmp_path: Path) -> None:
    done = run_installed(path, tmp_path, "-c", BLOCK + IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    place, failed = json.loads(done.stdout)
    assert Path(place).is_relative_to(path[0])
    foreseen = {name: [one for one in failed if one == name or one.startswith(f"{name}.")] for name in NEEDS_MORE}
    assert all(foreseen.values()), foreseen
    assert set(failed) == {one for found in foreseen.values() for one in found}, failed
    assert set(failed.values()) <= {*ABSENT, "zoo_openvino"}, failed


def test_an_onnx_file_is_verified_inspected_and_predicted_with(
    path: tuple[Path, ...], onnx_spec: ExportSpec, tmp_path: Path
) -> None:
    photographs = [tmp_path / f"{name}.png" for name in COLOURS]
    for photograph, colour in zip(photographs, COLOURS.values()):
        paint(colour, seed=1).save(photograph)

    def zoo(*arguments: str | Path) -> str:
        done = run_installed(path, tmp_path, "-c", BLOCK + COMMAND, *arguments, "--json")
        assert done.returncode == 0 and "plugin" not in done.stderr, done.stderr
        return done.stdout

    assert json.loads(zoo("verify", onnx_spec.file))["passed"]
    assert json.loads(zoo("inspect", onnx_spec.file))["metadata"]["zoo.classes"] == list(onnx_spec.classes)
    rows = json.loads(zoo("predict", onnx_spec.file, *photographs))
    assert [row["path"] for row in rows] == [str(photograph) for photograph in photographs]
    assert {row["label"] for row in rows} <= set(onnx_spec.classes)


def test_a_file_that_tells_unknown_images_needs_no_torch(
    path: tuple[Path, ...], onnx_spec: ExportSpec, tmp_path: Path
) -> None:
    from zoo_onnx.write import write

    generator = np.random.default_rng(0)
    features, held = (generator.normal(size=(count, 16)).astype(np.float32) for count in (40, 19))
    score = fit_unknown(
        rate=0.05, split="val", head="head", features=features, labels=np.arange(40) % 3,
        held_logits=generator.normal(size=(19, 3)).astype(np.float32), held_features=held,
    )  # fmt: skip
    spec = replace(onnx_spec, file=tmp_path / "strange.onnx", unknown=score, kept={})
    write(spec)
    photograph = tmp_path / "one.png"
    paint(COLOURS["red"], seed=1).save(photograph)

    def zoo(*arguments: str | Path) -> str:
        done = run_installed(path, tmp_path, "-c", BLOCK + COMMAND, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(zoo("verify", spec.file))["passed"]
    (row,) = json.loads(zoo("predict", spec.file, photograph))
    answers = TorchPredictor(spec.model, spec.classes, spec.preprocess, torch.device("cpu"), score).answers(
        [np.asarray(Image.open(photograph).convert("RGB"))]
    )
    assert answers.unknown is not None and row["unknown"] is (row["unknown_score"] > 1)
    assert row["unknown_score"] == pytest.approx(answers.unknown[0], rel=0.05)


def test_a_command_that_needs_more_says_so(path: tuple[Path, ...], tmp_path: Path) -> None:
    done = run_installed(path, tmp_path, "-c", BLOCK + COMMAND, "train", "--data", "digits")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: `zoo train` needs `backbone-zoo`, but only `backbone-zoo-serve` is installed")
    assert "hint: `pip install backbone-zoo` installs it" in done.stderr
