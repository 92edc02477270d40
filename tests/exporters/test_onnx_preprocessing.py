"""The graph's preprocessing against Pillow's."""

from __future__ import annotations

import hashlib
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
from zoo.preprocess import Colour, FitSetting, Preprocess
from zoo_onnx.preprocessing import build_preprocessing, photographs_value, pixels_value
from zoo_onnx.tensor_names import PHOTOGRAPHS

# 0..1 is left as it is, so that differences count in grey levels
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

FITS: tuple[tuple[FitSetting, Colour | None], ...] = (("crop", None), ("squash", None), ("pad", (200, 3, 77)))
FORMS = [
    Preprocess(resize=resize, crop=crop, interpolation=interpolation, fit=fit, **PLAIN)
    for resize, crop in ((40, 32), (32, 32), (24, 33), (9, 7))
    for interpolation in ("bilinear", "bicubic")
    for fit in ("shorter", "squash")
]
FORMS += [
    Preprocess(resize=24, crop=size, interpolation=interpolation, **PLAIN).at(size).fitted(fit, fill)
    for size in (32, (16, 40), (33, 7))
    for interpolation in ("bilinear", "bicubic")
    for fit, fill in FITS
]
FORMS += [
    Preprocess(resize=(20, 48), crop=(16, 40), **PLAIN),
    Preprocess(resize=(12, 48), crop=(16, 40), **PLAIN),  # lower than the crop, and wider
    Preprocess(resize=(64, 8), crop=30, **PLAIN),
    Preprocess(resize=24, crop=(30, 20), **PLAIN),
]

EXOTIC = [
    (1, 1),
    (1, 60000),
    (60000, 1),
    (1, 2),
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
    assert ours.shape == theirs.shape == (len(batch), 3, *preprocess.input_size)
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
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pictures_are_prepared_to_one_grey_level(form: Preprocess, name: str) -> None:
    apart = levels_apart(form, golden_photographs()[name][None])
    assert apart.max() <= 1
    assert apart.mean() < 0.05  # levels that lie midway may round either way


@pytest.mark.parametrize("size", EXOTIC, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
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


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (9, 31), (31, 9), (32, 32), (1, 1)], ids=str)
def test_what_is_filled_has_the_colour_and_every_side_of_the_image_is_there(size: tuple[int, int]) -> None:
    form = Preprocess(resize=32, crop=32, **PLAIN).fitted("pad", (200, 3, 77))
    white = np.full((1, *size, 3), 255, np.uint8)
    seen = np.rint(session(form).run(None, {PHOTOGRAPHS: white})[0][0].transpose(1, 2, 0) * 255).astype(np.uint8)
    shown = (seen == 255).all(axis=2)
    rows, columns = np.nonzero(shown.any(axis=1))[0], np.nonzero(shown.any(axis=0))[0]
    assert (len(rows), len(columns)) == form.resized_size(*size)
    assert max(len(rows), len(columns)) == 32 and (seen[~shown] == (200, 3, 77)).all()
    assert 0 <= (32 - rows[-1] - 1) - rows[0] <= 1 and 0 <= (32 - columns[-1] - 1) - columns[0] <= 1  # in the middle
    ends = white.copy()
    ends[0, : size[0] // 32 + 1, : size[1] // 32 + 1] = 0  # the first end of the image is seen
    changed = np.rint(session(form).run(None, {PHOTOGRAPHS: ends})[0][0].transpose(1, 2, 0) * 255)
    assert changed[rows[0], columns[0]].max() < 255


def test_the_colour_is_normalised_as_the_run_does() -> None:
    form = Preprocess(resize=32, crop=32).fitted("pad")
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(session(form).run(None, {PHOTOGRAPHS: noise})[0], normalise(noise, form))
    narrow = np.full((1, 40, 1, 3), 124, np.uint8)
    ours = session(form).run(None, {PHOTOGRAPHS: narrow})[0]
    assert np.array_equal(ours, normalise(pixels(narrow[0], form)[None], form))
    assert np.abs(ours[0, :, 0, 0]).max() < 0.01  # the mean colour is nearly 0 for the network


@pytest.mark.parametrize(
    ("form", "digest"),
    [
        (Preprocess(), "241e094f1af61b49"),
        (Preprocess(resize=224, crop=224, fit="squash", interpolation="bicubic"), "64ed28bc1caf1085"),
        (Preprocess(resize=200, crop=224), "aa60d74419019e07"),
    ],
    ids=str,
)
def test_files_of_earlier_versions_still_have_the_nodes_that_their_record_asks_for(
    form: Preprocess, digest: str
) -> None:
    part = build_preprocessing(form)
    written = b"".join(one.SerializeToString(deterministic=True) for one in (*part.nodes, *part.constants))
    assert hashlib.sha256(written).hexdigest()[:16] == digest


def test_without_antialiasing_it_would_differ() -> None:
    """The tolerance tells right from wrong: another filter is far outside of it."""
    picture = golden_photographs()["landscape"][None]
    bicubic = next(form for form in FORMS if form.interpolation == "bicubic" and form.resize == 40)
    bilinear = next(form for form in FORMS if form.interpolation == "bilinear" and form.resize == 40)
    ours = session(bilinear).run(None, {PHOTOGRAPHS: picture})[0]
    theirs = session(bicubic).run(None, {PHOTOGRAPHS: picture})[0]
    assert np.abs(ours - theirs).max() * 255 > 5
