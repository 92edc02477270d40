"""The graph's preprocessing against Pillow's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from torchvision.transforms.v2.functional import center_crop

from zoo.data.image import normalise, pixels
from zoo.exporting.golden_inputs import golden_photographs
from zoo.preprocess import Preprocess
from zoo_onnx.preprocessing import build_preprocessing, photographs_value, pixels_value
from zoo_onnx.tensor_names import PHOTOGRAPHS

# 0..1 is left as it is, so that differences count in grey levels
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

FORMS = [
    Preprocess(resize=resize, crop=crop, interpolation=interpolation, fit=fit, **PLAIN)
    for resize, crop in ((40, 32), (32, 32), (24, 33), (9, 7))
    for interpolation in ("bilinear", "bicubic")
    for fit in ("shorter", "squash")
]

EXOTIC = [
    (1, 1),
    (1, 20000),
    (20000, 1),
    (3, 5000),
    (5000, 3),
    (2, 3),
    (40, 40),
    (32, 32),
    (40, 160),
    (41, 40),
    (39, 40),
]


@cache
def session(preprocess: Preprocess) -> ort.InferenceSession:
    part = build_preprocessing(preprocess)
    graph = helper.make_graph(
        part.nodes, "part", [photographs_value()], [pixels_value(preprocess)], initializer=part.constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def levels_apart(preprocess: Preprocess, batch: Any) -> Any:
    """Differences in grey levels between the graph and Pillow, per value."""
    ours = session(preprocess).run(None, {PHOTOGRAPHS: batch})[0]
    theirs = normalise(np.stack([pixels(photograph, preprocess) for photograph in batch]), preprocess)
    assert ours.shape == theirs.shape == (len(batch), 3, preprocess.crop, preprocess.crop)
    return np.abs(np.rint((ours - theirs) * 255).astype(np.int64))


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    binary=st.booleans(),
)
def test_any_photograph_is_prepared_as_pillow_does(
    form: Preprocess, height: int, width: int, batch: int, seed: int, binary: bool
) -> None:
    """Of noise, where rounding errors of the first pass are enlarged by the second, up to two levels."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 2 if binary else 256, (batch, height, width, 3)) * (255 if binary else 1)
    apart = levels_apart(form, noise.astype(np.uint8))
    assert apart.max() <= 2
    assert (apart > 1).mean() < 0.01


@pytest.mark.parametrize("name", golden_photographs())
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.interpolation}-{form.fit}-{form.resize}-{form.crop}")
def test_pictures_are_prepared_to_one_grey_level(form: Preprocess, name: str) -> None:
    apart = levels_apart(form, golden_photographs()[name][None])
    assert apart.max() <= 1
    assert apart.mean() < 0.05  # levels that lie midway may round either way


@pytest.mark.parametrize("size", EXOTIC, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.interpolation}-{form.fit}-{form.resize}-{form.crop}")
def test_exotic_sizes(form: Preprocess, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    assert levels_apart(form, noise).max() <= 2


def test_what_needs_no_resize_is_not_touched() -> None:
    form = Preprocess(resize=32, crop=32, interpolation="bicubic", **PLAIN)
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    ours = session(form).run(None, {PHOTOGRAPHS: noise})[0]
    assert np.array_equal(ours, normalise(noise, form))


def test_normalisation_has_the_same_bits_as_the_runs() -> None:
    form = Preprocess(resize=32, crop=32)
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(session(form).run(None, {PHOTOGRAPHS: noise})[0], normalise(noise, form))


@pytest.mark.parametrize("excess", range(9))
def test_the_crop_begins_where_torchvision_s_does(excess: int) -> None:
    """On noise without a resize, where one pixel aside is everything."""
    form = Preprocess(resize=20, crop=15, **PLAIN)
    noise = np.random.default_rng(0).integers(0, 256, (1, 20, 15 + excess + 5, 3), dtype=np.uint8)
    ours = session(form).run(None, {PHOTOGRAPHS: noise})[0]
    theirs = center_crop(torch.from_numpy(noise).permute(0, 3, 1, 2), [15, 15])
    assert np.array_equal(np.rint(ours * 255).astype(np.uint8), theirs.numpy())


def test_without_antialiasing_it_would_differ() -> None:
    """The tolerance tells right from wrong: another filter is far outside of it."""
    picture = golden_photographs()["landscape"][None]
    bicubic = next(form for form in FORMS if form.interpolation == "bicubic" and form.resize == 40)
    bilinear = next(form for form in FORMS if form.interpolation == "bilinear" and form.resize == 40)
    ours = session(bilinear).run(None, {PHOTOGRAPHS: picture})[0]
    theirs = session(bicubic).run(None, {PHOTOGRAPHS: picture})[0]
    assert np.abs(ours - theirs).max() * 255 > 5
