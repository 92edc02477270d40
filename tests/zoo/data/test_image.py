"""Decoding: whatever users' folders hold becomes upright RGB, or is reported."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import v2

from zoo.data.augmentation import PLAIN, make_view
from zoo.data.image import BadImage, canvas, decode, normalise, pixels
from zoo.dataset import BytesSource
from zoo.preprocess import MAX_ASPECT, Fit, FitSetting, ImageSize, Preprocess, crop_start

GRADIENT = np.linspace(0, 255, 40 * 30 * 3).astype(np.uint8).reshape(30, 40, 3)


def test_a_png_is_read_exactly(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png"), GRADIENT)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "a.png"), np.rot90(GRADIENT, -1))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red = decode(tmp_path / "a.jpg")[4, 4].astype(int)
    assert red.shape == (3,) and red[0] > 200 and red[1] < 60 and red[2] < 60


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png")[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    palette.save(tmp_path / "a.png", transparency=0)
    decoded = decode(tmp_path / "a.png")
    assert decoded[0, 0].tolist() == [200, 0, 0] and decoded[3, 3].tolist() == [255, 255, 255]
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "b.png")
    assert abs(int(decode(tmp_path / "b.png")[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize(("mode", "clear", "other"), [("RGB", (10, 20, 30), (40, 50, 60)), ("L", 10, 40)])
def test_a_colour_that_a_file_declares_transparent_is_white(mode: str, clear: Any, other: Any, tmp_path: Path) -> None:
    image = Image.new(mode, (4, 4), clear)
    image.putpixel((0, 0), other)
    image.save(tmp_path / "a.png", transparency=clear)
    decoded = decode(tmp_path / "a.png")
    assert decoded[3, 3].tolist() == [255] * 3
    assert decoded[0, 0].tolist() == np.broadcast_to(other, 3).tolist()


def test_bad_files_are_reported_by_path(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.tile(GRADIENT, (8, 8, 1))).save(whole)
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    gif = tmp_path / "gif.jpg"
    Image.new("P", (4, 4)).save(gif, format="GIF")
    empty = tmp_path / "empty.png"
    empty.touch()
    for path in (truncated, text, gif, empty, tmp_path / "missing.jpg"):
        with pytest.raises(BadImage, match=path.name):
            decode(path)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (1, 20_000), (3, 500)])
@pytest.mark.parametrize("fit", ["shorter", "squash"])
def test_extreme_sizes_stay_small(width: int, height: int, fit: str) -> None:
    preprocess = Preprocess(resize=64, crop=56, fit=fit)  # type: ignore[arg-type]
    bounded = preprocess.bounded_size(height, width)
    assert max(bounded) <= MAX_ASPECT * min(bounded)
    photograph = np.full((height, width, 3), 77, np.uint8)
    assert (pixels(photograph, preprocess) == 77).all()
    assert canvas(photograph, preprocess).shape == (64, 64, 3)


def smooth(width: int, height: int) -> np.ndarray:
    """Something as smooth as a photograph: a few random colours, enlarged."""
    colours = np.random.default_rng([width, height]).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


@settings(max_examples=40)
@given(
    st.integers(20, 200),
    st.integers(20, 200),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([(64, 56), (32, 32), (40, 48)]),
)
def test_pixels_are_those_of_torchvision_s_own_preprocessing(
    width: int, height: int, interpolation: str, sizes: tuple[int, int]
) -> None:
    resize, crop = sizes
    if max(width, height) > MAX_ASPECT * min(width, height):
        return
    photograph = smooth(width, height)
    preprocess = Preprocess(resize=resize, crop=crop, interpolation=interpolation)  # type: ignore[arg-type]
    mode = v2.InterpolationMode(interpolation)
    resized = v2.functional.resize(Image.fromarray(photograph), [resize], interpolation=mode)
    theirs = np.asarray(v2.functional.center_crop(resized, [crop, crop])).astype(int)
    ours = pixels(photograph, preprocess).astype(int)
    assert ours.shape == theirs.shape
    # Pillow chooses the order of the two passes by size, we fix it as onnxruntime does; each rounds in between
    assert np.abs(ours - theirs).max() <= 2 and np.abs(ours - theirs).mean() < 0.2


SIZES: st.SearchStrategy[ImageSize] = st.integers(1, 40) | st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), SIZES, SIZES, st.sampled_from(get_args(Fit)))
def test_the_plain_training_view_is_the_crop_of_evaluation(
    width: int, height: int, resize: ImageSize, crop: ImageSize, fit: Fit
) -> None:
    preprocess = Preprocess(resize=crop if fit == "pad" else resize, crop=crop, fit=fit)
    image = np.random.default_rng([width, height]).integers(1, 256, (height, width, 3), dtype=np.uint8)
    seen = torch.from_numpy(canvas(image, preprocess).copy()).permute(2, 0, 1)
    assert seen.shape == (3, *preprocess.canvas)
    view = make_view(PLAIN, crop)(seen).permute(1, 2, 0).numpy()
    assert np.array_equal(view, pixels(image, preprocess))


def test_normalise() -> None:
    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    batch = np.array([[[[0, 255, 51]]]], np.uint8)
    assert np.allclose(normalise(batch, preprocess).reshape(3), [-1.0, 2.0, -0.6], atol=1e-6)


def test_another_image_size_keeps_the_ratio_of_resize_to_crop() -> None:
    assert Preprocess(resize=256, crop=224).at(112) == Preprocess(resize=128, crop=112)
    assert Preprocess.from_json(Preprocess(crop=64).to_json()) == Preprocess(crop=64)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [64, (48, 96), (96, 48)])
def test_a_fit_at_any_size_round_trips_and_shows_what_it_says(fit: FitSetting, size: ImageSize) -> None:
    form = Preprocess(mean=(1.0, 0.5, -0.1)).at(size).fitted(fit)
    assert Preprocess.from_json(json.loads(json.dumps(form.to_json()))) == form
    assert form.fill == ((255, 128, 0) if fit == "pad" else None)
    for height, width in ((1, 1), (1, 9000), (9000, 1), (30, 40), (40, 30), (77, 33)):
        image = np.full((height, width, 3), 77, np.uint8)
        shown = pixels(image, form)
        assert shown.shape == (*form.input_size, 3) and shown.dtype == np.uint8
        filled = (shown != 77).any(axis=2)
        assert not filled.any() if fit != "pad" else (shown[filled] == form.fill).all()
        inner, outer = canvas(image, form), pixels(image, form)
        tall, wide = (crop_start(one - other) for one, other in zip(inner.shape, outer.shape[:2]))
        assert np.array_equal(inner[tall : tall + outer.shape[0], wide : wide + outer.shape[1]], outer)


def test_pad_and_squash_show_the_whole_image_and_crop_cuts_it() -> None:
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, :3] = image[:, -3:] = 255  # both ends
    seen = {fit: pixels(image, Preprocess(resize=30, crop=30).fitted(fit)) for fit in ("crop", "squash", "pad")}
    assert seen["crop"].max() == 0
    assert seen["squash"][:, 0].min() > 200 and seen["squash"][:, -1].min() > 200
    middle = seen["pad"][10:20]
    assert middle[:, 0].min() > 200 and middle[:, -1].min() > 200 and (seen["pad"][:10] == (124, 116, 104)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": 256, "fit": "pad"},
        {"fill": [1, 2, 3]},
        {"fit": "pad", "resize": 224, "fill": [1, 2, 256]},
        {"crop": [224]},
        {"crop": [0, 5]},
        {"crop": True},
        {"max_aspect": 0},
        {"fit": "stretch"},
    ],
)
def test_a_record_that_nothing_can_be_prepared_by_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Preprocess.from_json({**Preprocess().to_json(), **wrong})


def large(folder: Path, size: tuple[int, int], **settings: Any) -> Path:
    """A smooth photograph with some noise, as JPEG."""
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.int16) + generator.integers(
        -8, 9, (size[1], size[0], 3), dtype=np.int16
    )
    file = folder / f"{size[0]}x{size[1]}.jpg"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, quality=92, **settings)
    return file


# an eighth, a quarter, half, and all of it: the shorter side keeps 128 pixels
@pytest.mark.parametrize(
    ("size", "wanted"), [((1400, 1040), 130), ((700, 520), 130), ((400, 256), 128), ((400, 255), 255)]
)
def test_training_jpegs_may_be_decoded_at_a_fraction(tmp_path: Path, size: tuple[int, int], wanted: int) -> None:
    file, preprocess = large(tmp_path, size), Preprocess(resize=64, crop=56)
    fraction, whole = decode(file, 128), decode(file)
    assert min(fraction.shape[:2]) == wanted and min(whole.shape[:2]) == size[1]
    away = np.abs(canvas(fraction, preprocess).astype(int) - canvas(whole, preprocess))
    assert away.mean() < 1.5


def test_orientation_and_other_formats_at_a_fraction(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(large(tmp_path, (800, 640), exif=exif), 128).shape == (200, 160, 3)
    Image.fromarray(np.tile(GRADIENT, (10, 10, 1))).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 32).shape == (300, 400, 3)
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(large(tmp_path, (800, 640)).read_bytes()[:20_000])
    with pytest.raises(BadImage):
        decode(truncated, 128)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.filterwarnings("error")
def test_pillow_s_bound_is_left_to_the_host_program(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image far over the bound of the process is decoded without a warning, and the bound stays."""
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(GRADIENT).save(file)
    whole = decode(file)
    for bound in (1000, 100):  # a warning, an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
        assert np.array_equal(decode(file), whole)
        assert bound == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr("zoo.data.image.MAX_PIXELS", 1000)
    with pytest.raises(BadImage, match="40 x 30 pixels"):
        decode(file)


def test_importing_zoo_leaves_pillow_s_bound(tmp_path: Path) -> None:
    program = "from PIL import Image as I; a = I.MAX_IMAGE_PIXELS; import zoo.data.image; print(a, I.MAX_IMAGE_PIXELS)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == after != "None"


def entropy_coded(size: tuple[int, int], progressive: bool) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=80, progressive=progressive)
    return stream.getvalue()


@settings(max_examples=60)
@given(lost=st.integers(1, 60), progressive=st.booleans(), width=st.integers(17, 60))
def test_a_jpeg_is_repaired_where_no_part_of_the_image_is_missing(lost: int, progressive: bool, width: int) -> None:
    """Without its end marker (2 bytes) it is the same image; without more it is none: a decoder would make that up."""
    whole = entropy_coded((width, 40), progressive)
    remarks = list[str]()
    source = BytesSource("x.jpg", lambda: whole[:-lost])
    if lost <= 2:
        expected = decode(BytesSource("y.jpg", lambda: whole))
        assert np.array_equal(decode(source, remark=remarks.append), expected)
        assert all("last bytes" in text for text in remarks)  # Pillow takes some without a word
        assert decode(source, 8).shape[0] <= 40
    else:
        try:
            kept = decode(source, remark=remarks.append)
        except BadImage:
            return
        # the last byte may be padding alone
        assert lost == 3 and np.array_equal(kept, decode(BytesSource("y.jpg", lambda: whole)))


@pytest.mark.parametrize("chunk", ["profile", "text"])
def test_a_png_with_a_large_profile_or_text_is_read(chunk: str, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "x" * 2_000_000, zip=True)
    extra: dict[str, Any] = {"icc_profile": b"x" * 2_000_000} if chunk == "profile" else {"pnginfo": info}
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", **extra)
    remarks = list[str]()
    assert np.array_equal(decode(tmp_path / "a.png", remark=remarks.append), GRADIENT)
    assert "1 MB" in remarks[0] and len(remarks) == 1


@pytest.mark.parametrize(
    ("beginning", "words"),
    [
        (b"\0\0\0\x18ftypheic", "cannot be decoded: HEIC"),
        (b"\0\0\0\x0cJXL ", "JPEG XL photograph, which zoo does not read"),
        (b"GIF89a", "GIF file"),
        (b"<!DOCTYPE html>", "HTML or XML file"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_what_is_no_photograph_is_named(beginning: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        decode(BytesSource("a.jpg", lambda: beginning + bytes(100)))


def grey(values: Any, dtype: Any, **settings: Any) -> tuple[list[int], list[str]]:
    """The grey levels of a row of pixels in a TIFF of a type, and the remarks."""
    stream, remarks = io.BytesIO(), list[str]()
    Image.fromarray(np.array([values], dtype)).save(stream, "TIFF")
    decoded = decode(BytesSource("x.tif", stream.getvalue), remark=remarks.append, **settings)
    assert (decoded == decoded[:, :, :1]).all()
    return decoded[0, :, 0].tolist(), remarks


LEVELS = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9)


@given(LEVELS, LEVELS)
def test_a_grey_level_means_the_same_in_every_image(some: list[float], others: list[float]) -> None:
    """No image is scaled by its own pixels: what lies beside a pixel does not change it, whatever the type."""
    for dtype, scale, levels in ((np.float32, 1, None), (np.uint16, 65535, None), (np.int32, 1e6, (-1e6, 1e6))):
        first, both = ([value * scale for value in values] for values in (some, some + others))
        alone, _ = grey(first, dtype, levels=levels)
        beside, _ = grey(both, dtype, levels=levels)
        assert beside[: len(some)] == alone


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9), st.integers(0, 60_000), st.integers(1, 5000))
def test_levels_are_linear_between_black_and_white(values: list[int], low: int, width: int) -> None:
    found, _ = grey(values, np.uint16, levels=(low, low + width))
    exact = [255 * min(max((value - low) / width, 0), 1) for value in values]
    assert all(abs(level - wanted) <= 0.5 + 1e-9 for level, wanted in zip(found, exact))


@pytest.mark.parametrize(("odd", "level"), [(1.004, 255), (-0.5, 0), (40.0, 255), (float("nan"), 0), (float("inf"), 0)])
def test_a_pixel_that_does_not_fit_changes_no_other(odd: float, level: int) -> None:
    """It is clipped; what is no number becomes black."""
    values = np.linspace(0, 1, 400)
    plain, none = grey(values, np.float32)
    found, remarks = grey([*values, odd], np.float32)
    assert found == [*plain, level] and none == [] and max(plain) == 255
    assert len(remarks) == 1 and "1 of 401 grey levels" in remarks[0]


def test_how_many_levels_may_lie_outside_those_of_the_type() -> None:
    """One in a hundred, as after a resize that overshoots; less than half a step of the result is no overshoot."""
    assert grey([0.0, 0.5, 1.0015, -0.0015], np.float32) == ([0, 128, 255, 0], [])
    for odd in (1.0025, -0.0025):
        found, remarks = grey([0.5] * 99 + [odd], np.float32)
        assert found[:99] == [128] * 99 and len(remarks) == 1 and "1 of 100 grey levels" in remarks[0]
        with pytest.raises(BadImage, match="2% of them lie outside 0 to 1"):
            grey([0.5] * 98 + [odd] * 2, np.float32)


@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        ([-200.0, 300.0, 800.0], np.float32, "-200 to 800"),
        ([0.0, 128.0, 255.0], np.float32, "0 to 255"),
        ([0, 70_000, 200_000], np.int32, "0 to 200,000"),
        ([0, 100], np.int32, "0 to 100"),
    ],
)
def test_a_type_that_does_not_tell_needs_levels(values: list[float], dtype: Any, told: str) -> None:
    with pytest.raises(BadImage, match=f"{told}.*`--levels LOW HIGH`"):
        grey(values, dtype)
    found, remarks = grey(values, dtype, levels=(min(values), max(values)))
    assert (found[0], found[-1], remarks) == (0, 255, [])


def test_twelve_bits_in_sixteen_are_told() -> None:
    values = [0, 2048, 4095]
    found, remarks = grey(values, np.uint16)
    assert max(found) == 16 and "`--levels 0 4095`" in remarks[0]
    assert grey(values, np.uint16, levels=(0, 4095)) == ([0, 128, 255], [])


@pytest.mark.parametrize("value", [4200, 60_000])
def test_an_image_beyond_the_given_levels_is_told(value: int) -> None:
    """It became white without a word; that a part is clipped is what a window is for."""
    found, remarks = grey([value] * 99 + [2048], np.uint16, levels=(0, 4095))
    assert found == [255] * 99 + [128] and len(remarks) == 1
    assert f"2,048 to {value:,}, and 99% of them lie outside 0 to 4,095" in remarks[0] and "`--levels" in remarks[0]
    assert grey([value] * 98 + [2048] * 2, np.uint16, levels=(0, 4095))[1] == []


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_cut_between_scans_is_not_repaired(mode: str) -> None:
    """It decodes without an error, coarse or without its colours, so nothing but its scans tells that it is cut."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    starts = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts[1:]:
        for end in (b"", b"\xff", b"\xff\xff"):
            with pytest.raises(BadImage, match="truncated"):
                decode(BytesSource("cut", lambda cut=whole[:start] + end: cut))  # type: ignore[misc]
    assert np.array_equal(decode(BytesSource("end", lambda: whole[:-2])), decode(BytesSource("all", lambda: whole)))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_at_a_restart_marker_is_not_repaired(mode: str, progressive: bool) -> None:
    """A decoder fills what follows a missing marker with grey, whatever it reads."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 122, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "JPEG", progressive=progressive, restart_marker_blocks=4)
    whole = file.getvalue()
    markers = [place for place in range(len(whole) - 1) if whole[place] == 0xFF and 0xD0 <= whole[place + 1] <= 0xD7]
    assert len(markers) > 5
    pixels = decode(BytesSource("all", lambda: whole))
    for cut in (*markers[-3:], markers[-1] + 2, len(whole) - 40, len(whole) - 2):
        try:
            found = decode(BytesSource("cut", lambda cut=cut: whole[:cut]))  # type: ignore[misc]
        except BadImage:
            assert cut < len(whole) - 2
        else:  # the last bytes of a progressive file may hold nothing
            assert cut not in markers and np.array_equal(found, pixels)
