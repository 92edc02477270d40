"""The server and `zoo predict` give the same probabilities for the same bytes, bit for bit."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from hostile_images import encoded, photograph
from PIL import Image
from serving_support import Client

from zoo import predict
from zoo.plugin import Plugins
from zoo.serving.served_model import Batching, open_served
from zoo.serving.service import Service

PHOTO = photograph(61, 47)
DEEP = Image.fromarray(np.random.default_rng(1).integers(0, 65_535, (47, 61), dtype=np.uint16))
PAGES = [photograph(61, 47, seed) for seed in range(3)]


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def images() -> dict[str, bytes]:
    """Encoded images of all kinds by name."""
    alpha = PHOTO.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(61, dtype=np.uint8) * 4, (47, 1))))
    rgb, palette = encoded(PHOTO, "PNG"), PHOTO.quantize(16)
    several: dict[str, Any] = {"save_all": True, "append_images": PAGES[1:]}
    return {
        **{f"exif-{number}.jpg": encoded(PHOTO, exif=exif(number)) for number in range(1, 9)},
        "progressive.jpg": encoded(PHOTO, progressive=True),
        "cmyk.jpg": encoded(PHOTO.convert("CMYK")),
        "grey.jpg": encoded(PHOTO.convert("L")),
        "no-end.jpg": encoded(PHOTO)[:-2],
        "rgb.png": rgb,
        "exif.png": encoded(PHOTO, "PNG", exif=exif(6)),
        "alpha.png": encoded(alpha, "PNG"),
        "alpha.webp": encoded(alpha, "WEBP"),
        "grey-alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent.png": encoded(palette, "PNG", transparency=3),
        "bit.png": encoded(PHOTO.convert("1"), "PNG"),
        "deep.png": encoded(DEEP, "PNG"),
        "deep.tif": encoded(DEEP, "TIFF"),
        "one.png": encoded(photograph(1, 1), "PNG"),
        "strip.png": encoded(photograph(1, 60_000), "PNG"),
        "wide.png": encoded(photograph(60_000, 1), "PNG"),
        "lossy.webp": encoded(PHOTO, "WEBP"),
        "animated.webp": encoded(PAGES[0], "WEBP", lossless=True, **several),
        "animated.png": encoded(PAGES[0], "PNG", **several),
        "mpo.jpg": encoded(PAGES[0], "MPO", **several),
        "pages.tif": encoded(PAGES[0], "TIFF", **several),
        "lzw.tif": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
        "cmyk.tif": encoded(PHOTO.convert("CMYK"), "TIFF"),
        "photo.bmp": encoded(PHOTO, "BMP"),
    }


@pytest.mark.parametrize("batch", [1, 8])
def test_the_server_and_predict_agree(exported_run: Path, tmp_path: Path, plugins: Plugins, batch: int) -> None:
    file = Path(shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx"))
    written = images()
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    predictions, bad = predict(file, [tmp_path / name for name in written], top=2, device="cpu", plugins=plugins)
    assert not bad and len(predictions) == len(written)

    measured = Batching(size=batch, seconds={1: 1.0, batch: 0.5 if batch > 1 else 1.0})
    model = open_served(file, name="model", device="cpu", threads=1, plugins=plugins, measured=_Any(measured))
    service = Service([model], workers=2)
    client = Client(service)
    try:
        frames = {}
        for (name, data), expected in zip(written.items(), predictions):
            answer = client.predict(data, params={"top": 2}).json()
            assert [(one["label"], one["probability"]) for one in answer["top"]] == list(expected.top), name
            frames[name] = answer.get("frames", 1)
        several = {name for name, count in frames.items() if count == 3}
        assert several == {"animated.webp", "animated.png", "mpo.jpg", "pages.tif"} and set(frames.values()) == {1, 3}

        # and many in one request
        texts = [base64.b64encode(data).decode() for data in written.values()][:32]
        tensor = {"name": "image", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        answer = client("POST", "/v2/models/model/infer", content=json.dumps({"inputs": [tensor]})).json()
        labels = next(one["data"] for one in answer["outputs"] if one["name"] == "label")
        assert labels == [expected.top[0][0] for expected in predictions[:32]]
    finally:
        service.close()


class _Any(dict[str, Batching]):
    def __init__(self, batching: Batching) -> None:
        self.batching = batching

    def get(self, digest: str, default: Any = None) -> Any:
        return self.batching


def test_an_image_that_is_refused_here_is_refused_there(exported_run: Path, tmp_path: Path, plugins: Plugins) -> None:
    whole = encoded(PHOTO)
    spoiled = {
        "half.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.png": b"no image",
        "half.png": b"\x89PNG\r\n",
    }
    for name, data in spoiled.items():
        (tmp_path / name).write_bytes(data)
    found, bad = predict(exported_run / "model.onnx", [tmp_path / name for name in spoiled], plugins=plugins)
    assert not found and len(bad) == len(spoiled)
