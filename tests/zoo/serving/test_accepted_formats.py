"""Optional formats in a server: refused with 415 unless they are accepted, and then decoded as by `zoo predict`."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features
from serving_support import Client, stub

from zoo.data.image import decode
from zoo.dataset import BytesSource
from zoo.serving.bounds import Bounds
from zoo.serving.service import Service
from zoo_cli.main import run

LIGHT = Image.fromarray(np.full((40, 60, 3), 250, np.uint8))


def heic(image: Image.Image = LIGHT) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=90)
    return stream.getvalue()


def client(*accept: str, **bounds: int) -> Client:
    return Client(Service([stub()], workers=1, bounds=Bounds(accept=accept, **bounds)))


def test_what_is_not_accepted_is_refused_by_both_routes_with_the_same_words() -> None:
    asked = client("AVIF")
    plain = asked.predict(heic())
    one = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(heic()).decode()]}
    other = asked("POST", "/v2/models/model/infer", json={"inputs": [one]})
    assert plain.status_code == other.status_code == 415
    assert "HEIC" in plain.text and "HEIC" in other.text and "AVIF" in plain.json()["hint"]


def test_the_page_names_what_is_accepted_and_lets_choose_it() -> None:
    plain, more = client()("GET", "/").text, client("HEIC")("GET", "/").text
    assert "JPEG, PNG, WebP, BMP or TIFF<" in plain and ".heic" not in plain and 'accept=".jpg,' in plain
    assert "JPEG, PNG, WebP, BMP, TIFF or HEIC<" in more and ",.heic,.heif,.hif" in more and "FORMAT_" not in more


def test_what_is_accepted_is_classified() -> None:
    found = client("HEIC").predict(heic())
    assert found.status_code == 200 and found.json()["label"] == "light" and "remarks" not in found.json()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_of_an_animation_the_first_frame_is_classified_and_said() -> None:
    stream = io.BytesIO()
    LIGHT.save(stream, "AVIF", save_all=True, append_images=[Image.new("RGB", LIGHT.size)])
    found = client("AVIF").predict(stream.getvalue()).json()
    assert found["label"] == "light" and "first is used" in json.dumps(found)


def test_what_is_accepted_and_damaged_or_too_large_is_refused_as_other_formats_are() -> None:
    found = client("HEIC").predict(heic()[:-200])
    assert found.status_code == 422 and "cannot be decoded" in found.text and "HEIC" in found.json()["hint"]
    assert client("HEIC", pixels=100).predict(heic()).status_code == 413
    assert np.array_equal(decode(BytesSource("x", heic)).shape, (40, 60, 3))


def test_serving_a_format_whose_library_is_missing_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    monkeypatch.setattr("zoo_cli.serve.why_not_read", lambda name: "needs pydicom: `pip install 'x[dicom]'`")
    assert run(["serve", str(tmp_path / "a.onnx"), "--accept", "dicom"]) == 1
    assert "`--accept dicom` needs pydicom" in capsys.readouterr().err
