"""The whole image: every fit and a rectangle, from training over every file format to the server's card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_export import SmallNet, small_spec
from tests_support import TINY, make_photos

import zoo
from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.networks.building import build_network
from zoo.preprocess import ImageSize, Preprocess
from zoo.stage import Anatomy, Stage
from zoo.testing import check_export
from zoo_onnx.serve import open_to_serve
from zoo_onnx.session import open_file
from zoo_onnx.verify import verify
from zoo_onnx.write import write

FORMS: list[dict[str, Any]] = [
    {"fit": "squash"},
    {"fit": "pad", "image_size": "32x64", "fill": (10, 200, 30)},
]


def words(form: dict[str, Any]) -> str:
    return " ".join(map(str, form.values()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("whole") / "photos", {"train": 6, "val": 4})


@pytest.mark.parametrize("form", FORMS, ids=words)
def test_a_run_of_every_fit_is_exported_verified_and_predicts_as_its_file(
    form: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    settings = {**form, "augment": "light", "epochs": 1}
    run = zoo.train(replace(TINY, data=str(photos), **settings), out=tmp_path / "run")
    assert run.record["preprocess"]["fit"] == {"crop": "shorter"}.get(form.get("fit", "crop"), form.get("fit"))
    again = zoo.Run.open(tmp_path / "run")
    assert again.preprocess == run.preprocess and again.experiment == run.experiment
    file = tmp_path / "run/model.onnx"
    zoo.export(run, out=file)
    checks = zoo.verify(file, data=str(photos))
    assert all(check.passed for check in checks) and len(checks) > 8  # the run's predictions are among them
    (told,) = (check.detail for check in checks if check.name == "preprocessing")
    assert str(run.preprocess) in told


# Every two of format, size and fit meet on every push; all three in `slow`
PREPARED = [
    pytest.param(to, size, fit, marks=() if (to == "onnx") == ((size == 32) == (fit == "crop")) else pytest.mark.slow)
    for fit in ("crop", "squash", "pad") for size in (32, (32, 64)) for to in ("onnx", "pt2")
]  # fmt: skip


@pytest.mark.parametrize(("to", "size", "fit"), PREPARED)
def test_every_exporter_prepares_images_as_the_run_does(to: str, size: ImageSize, fit: Any) -> None:
    model = SmallNet()
    stages = tuple(
        Stage(name=name, parameters=tuple(f"{name}.{one}" for one, _ in part.named_parameters()))
        for name, part in model.named_children()
        if name != "head" and list(part.parameters())
    )
    head = Stage(name="head", parameters=("head.weight", "head.bias"))
    check_export(Network(model, Anatomy(backbone="small", stages=stages, head=head)), to=to, image_size=size, fit=fit)


def test_a_record_of_another_fit_colour_or_size_is_found_by_verify(tmp_path: Path) -> None:
    import onnx

    from zoo_onnx import metadata as meta

    spec = small_spec(tmp_path / "a.onnx", Preprocess(resize=32, crop=32).fitted("pad"))
    write(spec)
    model = onnx.load(spec.file)
    for changed in ({"fill": [0, 0, 0]}, {"fit": "squash", "fill": None}, {"resize": [32, 64], "crop": [32, 64]}):
        for entry in model.metadata_props:
            if entry.key == meta.KEY_PREPROCESS:
                entry.value = json.dumps({**spec.preprocess.to_json(), **changed})
        (tmp_path / "b.onnx").write_bytes(meta.seal(model))
        failed = {check.name for check in verify(tmp_path / "b.onnx", "cpu") if not check.passed}
        assert "preprocessing" in failed, changed


@pytest.mark.parametrize("size", [32, (32, 64)])
def test_a_server_that_cuts_the_graph_at_the_network_s_input_answers_the_same(size: ImageSize, tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "a.onnx", Preprocess(resize=32, crop=32).at(size).fitted("pad"))
    write(spec)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((40, 90), (90, 40), (1, 300), (1, 1))]
    whole, cut = open_file(spec.file, "cpu"), open_to_serve(spec.file, "cpu", 1, True)
    assert np.allclose(whole.logits(images), cut.logits(images), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        ("torchvision/vit_b_16", "position embeddings are of a square grid"),
        ("torchvision/maxvit_t", "attention windows are of a square grid"),
        ("timm/efficientformer_l1", "cannot take images of 64x96 pixels"),
    ],
)
def test_networks_of_a_fixed_square_say_why_they_take_no_rectangle(backbone: str, why: str) -> None:
    row = zoo.Plugins().backbones.find(backbone).value
    with pytest.raises(UsageError) as error, torch.device("meta" if "timm" not in backbone else "cpu"):
        build_network(row, classes=2, image_size=(64, 96))
    assert why in error.value.message and error.value.hint is not None


@pytest.mark.parametrize("backbone", ["timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"])
def test_networks_that_can_take_rectangles_do(backbone: str) -> None:
    row = zoo.Plugins().backbones.find(backbone).value
    network = build_network(row, classes=3, image_size=(64, 96))
    with torch.no_grad():
        assert network.model.eval()(torch.zeros(2, 3, 64, 96)).shape == (2, 3)


def test_a_builder_that_knows_squares_alone_is_named() -> None:
    def square(spec: Any) -> Network:
        return Network(torch.nn.Linear(spec.image_size // 2, 2), None)  # type: ignore[arg-type]

    row = zoo.Backbone(name="square", summary="x", build=square, preprocess=Preprocess())
    with pytest.raises(UsageError, match="`square` cannot be built for 32x64 pixels"):
        build_network(row, classes=2, image_size=(32, 64))


def test_settings_of_runs_before_there_was_a_fit_are_read(photos: Path) -> None:
    old = {key: value for key, value in replace(TINY, data=str(photos)).to_json().items() if key not in ("fit", "fill")}
    found = Experiment.from_json(old)
    assert found.fit is None and found.fill is None and found.image_size == 32
