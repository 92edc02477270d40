"""Contents of images, where files change while they are used."""

from __future__ import annotations

import io
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import make_photos

import zoo.data.decoding
from zoo import Images, ZooError
from zoo.data.decoding import DecodedImages, DecodeRequest, decode_parts
from zoo.data.image import Pixels
from zoo.data.image_content import DigestedSource
from zoo.data.opening import open_images
from zoo.data.streamed_pixels import StreamedPixels
from zoo.dataset import BytesSource, FileSource, Sample
from zoo.plugin import Plugins
from zoo.storage.tensor_store import Store

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"train": 3, "val": 2})


def scanned(
    images: Images, store: Store | None = None, convert: Callable[[Pixels], Pixels] = lambda image: image
) -> DecodedImages:
    request = DecodeRequest(images.splits["train"], (24, 24), lambda image: convert(image)[:24, :24].copy())
    keys = {"fit": {"a": 1}}
    return decode_parts(images, {"fit": request}, on_bad_image="fail", workers=1, store=store, keys=keys)[0]["fit"]


def test_streamed_pixels_are_those_that_were_scanned(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another photograph under the same name would be trained on, and its features kept under the first one's."""
    monkeypatch.setattr(zoo.data.decoding, "MEMORY_BUDGET", 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(1000, 0, 1000))
    found = scanned(open_images(str(photos), 0, Plugins()))
    assert isinstance(found.pixels, StreamedPixels)
    file = photos / found.samples[1].id
    before = file.read_bytes()
    file.write_bytes((photos / found.samples[-1].id).read_bytes())
    for index in (1, slice(0, 2), [0, 1]):
        with pytest.raises(ZooError, match=f"`{found.samples[1].id}` has changed since the data were scanned"):
            np.asarray(found.pixels[index])
    assert found.pixels[[0, 2]].shape == (2, 24, 24, 3)
    file.write_bytes(before)
    assert found.pixels[1].shape == (24, 24, 3)


def test_an_image_that_changes_while_data_are_scanned_counts_as_what_was_decoded(photos: Path, tmp_path: Path) -> None:
    """It is not stored: it would be found by the content that it had when it was hashed."""
    images = open_images(str(photos), 0, Plugins())
    last = photos / images.splits["train"][-1].id
    before, after = last.read_bytes(), (photos / images.splits["train"][0].id).read_bytes()

    def convert(image: Pixels) -> Pixels:
        last.write_bytes(after)
        return image

    store = Store(tmp_path / "store")
    found = scanned(images, store, convert)
    assert found.contents[-1] == sha256(after).hexdigest()
    assert found.digest == scanned(images).digest
    assert np.array_equal(found.pixels[-1], found.pixels[0])
    last.write_bytes(before)
    again = scanned(images, store)
    assert again.contents[-1] == sha256(before).hexdigest()
    assert not np.array_equal(again.pixels[-1], again.pixels[0])


class Stream:
    """A plugin's stream that has what a decoder needs, and no more."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)
        self.read, self.seek, self.tell, self.close = (
            self._inner.read,
            self._inner.seek,
            self._inner.tell,
            self._inner.close,
        )

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *found: object) -> None:
        self.close()


class Odd:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> Any:
        return Stream(self._data)

    def __str__(self) -> str:
        return "odd"


def test_a_stream_is_given_from_its_beginning(photos: Path) -> None:
    file = next(photos.rglob("*.jpg"))
    for source in (FileSource(file), BytesSource("a", file.read_bytes), Odd(file.read_bytes())):
        digested = DigestedSource(source)
        with digested.open() as stream:  # type: ignore[union-attr]  # none is an array
            assert stream.read() == file.read_bytes()
        assert digested.digest == (b"" if isinstance(source, Odd) else sha256(file.read_bytes()).digest())
        assert str(digested) == str(source)


@pytest.mark.parametrize("wrong", [{"label": 5}, {"label": ["cat"]}, {"group": 7}])
def test_labels_and_groups_of_plugins_are_text(photos: Path, wrong: dict[str, Any]) -> None:
    images = open_images(str(photos), 0, Plugins())
    first = images.splits["train"][0]
    odd = Sample(first.id, wrong.get("label", first.label), first.source, wrong.get("group"))
    what = f"image `{first.id}` of `.*` has a {next(iter(wrong))} that is no text"
    with pytest.raises(ZooError, match=what):
        replace(images, splits={"train": (odd,)})
