"""Images come from files, archives, tables or memory: the same pixels, the same digest, the same errors, read late."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import TINY, make_photos

from zoo import Experiment, Images, Plugins, Sample, Study, ZooError, train
from zoo.catalogue import Catalogue, Entry
from zoo.data.image import BadImage, decode
from zoo.data.image_content import content_digest
from zoo.data.opening import absolute, open_images, open_to_score
from zoo.dataset import ArraySource, BytesSource, Dataset, FileSource, ImageSource, Role, as_source
from zoo.exporting.verification import verify
from zoo.exporting.writing import export


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of the photographs of train/ and val/."""
    root = make_photos(tmp_path / "photos", {"train": 8, "val": 4})
    file = tmp_path / "photos.zip"
    with zipfile.ZipFile(file, "w") as made:
        for photo in sorted(root.rglob("*.jpg")):
            made.write(photo, photo.relative_to(root))
    return file


def member(archive: Path, name: str) -> BytesSource:
    def load() -> bytes:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(name)

    return BytesSource(f"{archive.name}:{name}", load)


def open_archive(argument: str, split_seed: int) -> Images:
    """A third party's dataset: members of an archive, by their folders."""
    splits: dict[Role, list[Sample]] = {"train": [], "val": []}
    with zipfile.ZipFile(argument) as opened:
        for name in opened.namelist():
            role, label, _ = name.split("/")
            splits[role].append(Sample(name, label, member(Path(argument), name)))  # type: ignore[index]
    return Images(name="archive", classes=("blue", "red"), splits={role: tuple(some) for role, some in splits.items()})


def absolute_path(argument: str) -> str:
    return str(Path(argument).resolve())


@pytest.fixture
def plugins() -> Plugins:
    made = Plugins()
    row = Dataset(name="archive", summary="members of a zip", open=open_archive, absolute=absolute_path)
    named = Dataset(name="named", summary="a name, no path", open=open_archive)
    entries = [*made.datasets.entries, Entry("acme", row), Entry("acme", named)]
    made.__dict__["datasets"] = Catalogue("dataset", "datasets", entries)
    return made


def test_the_same_bytes_are_the_same_image_wherever_they_lie(archive: Path) -> None:
    file = archive.parent / "photos/train/red/000.jpg"
    cell = BytesSource("cell", file.read_bytes)
    sources: list[ImageSource | Path] = [FileSource(file), member(archive, "train/red/000.jpg"), cell, file]
    assert len({content_digest(source) for source in sources}) == 1
    first, *others = (decode(source) for source in sources)
    assert all(np.array_equal(first, other) for other in others)
    assert content_digest(ArraySource(first)) == content_digest(first) != content_digest(file)
    assert decode(ArraySource(first)) is first


def test_a_large_jpeg_of_an_archive_is_decoded_at_a_fraction(archive: Path) -> None:
    source = member(archive, "train/red/000.jpg")
    assert decode(source, at_least=10).shape[0] < decode(source).shape[0]


def test_paths_and_arrays_are_wrapped() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert Sample("a", "b", Path("x.jpg")).source == FileSource(Path("x.jpg")) == as_source("x.jpg")
    assert isinstance(Sample("a", "b", pixels).source, ArraySource)
    sample = Sample("a", "b", FileSource(Path("x.jpg")))
    assert sample.source is as_source(sample.source) and replace(sample, label="c").source is sample.source
    assert sample == Sample("a", "b", pixels) and "x.jpg" not in repr(sample)
    with pytest.raises(AssertionError, match="an array or an object with `open`"):
        Sample("a", "b", 3)  # type: ignore[arg-type]


def test_nothing_is_read_before_it_is_needed() -> None:
    read: list[str] = []
    source = BytesSource("lazy", lambda: read.append("read") or b"no image")  # type: ignore[func-returns-value]
    sample = Sample("a", "b", source)
    assert repr(sample) and str(sample.source) == "lazy" and read == []
    with pytest.raises(BadImage, match="`lazy` cannot be read as an image"):
        decode(sample.source)
    assert read == ["read"]


def test_opening_a_folder_reads_no_image(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    really = io.open

    def spy(file: Any, *rest: Any, **more: Any) -> Any:
        read.append(str(file))
        return really(file, *rest, **more)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", spy)
    images = open_images(str(archive.parent / "photos"), 0, Plugins())
    assert len(images.splits["train"]) == 16 and not [name for name in read if name.endswith(".jpg")]
    sample = images.splits["train"][0]
    assert decode(sample.source).ndim == 3 and read[-1] == str(sample.source)


def test_the_digest_is_that_of_the_whole_content(tmp_path: Path) -> None:
    content = bytes(3 * 2**20)
    (tmp_path / "large.jpg").write_bytes(content + b"a")
    digest = content_digest(FileSource(tmp_path / "large.jpg"))
    assert digest == hashlib.sha256(content + b"a").digest()
    assert content_digest(BytesSource("other", lambda: content + b"b")) != digest


def test_pixels_have_the_same_digest_however_they_lie_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    turned = pixels[:, ::-1]
    assert content_digest(turned) == content_digest(turned.copy()) != content_digest(pixels)


def broken() -> bytes:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FileSource(Path("nowhere.jpg")), "there is no file `nowhere.jpg`"),
        (BytesSource("cell 3", broken), "`cell 3` cannot be read: Input/output error"),
        (BytesSource("cell 4", lambda: b""), "`cell 4` cannot be read as an image"),
    ],
)
def test_unreadable_sources_are_named(source: FileSource | BytesSource, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        decode(source)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_named(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(BadImage, match=f"array is .*{pixels.dtype}, not H x W x 3 uint8"):
        decode(pixels)


class Odd:
    """A source of a plugin that keeps no promise."""

    def __init__(self, what: object) -> None:
        self.what = what

    def open(self) -> Any:
        if isinstance(self.what, Exception):
            raise self.what
        return self.what

    def __str__(self) -> str:
        return "row 7"


@pytest.mark.parametrize("what", [RuntimeError("the net is down"), KeyError("x"), None, b"bytes", "text"])
def test_a_source_that_fails_in_any_way_is_a_bad_image(what: object) -> None:
    reason = "read" if isinstance(what, Exception) else "decoded"
    with pytest.raises(BadImage, match=f"`row 7` cannot be {reason}"):
        decode(Odd(what))
    with pytest.raises(OSError):
        content_digest(Odd(what))


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe of Unix")
def test_a_photograph_from_a_pipe(archive: Path) -> None:
    read, write = os.pipe()
    whole = member(archive, "train/red/000.jpg").load()
    os.write(write, whole)
    os.close(write)
    try:
        assert np.array_equal(decode(Path(f"/dev/fd/{read}")), decode(BytesSource("whole", lambda: whole)))
    finally:
        os.close(read)


def test_splits_are_sequences() -> None:
    samples = (Sample("a", "red", np.zeros((8, 8, 3), np.uint8)),)
    with pytest.raises(ZooError, match="split `train` of `made` is a generator, not a tuple"):
        Images(name="made", classes=("red",), splits={"train": (one for one in samples)})  # type: ignore[dict-item]


def test_a_truncated_member_is_a_bad_image(archive: Path) -> None:
    whole = member(archive, "train/red/000.jpg").load()
    with pytest.raises(BadImage, match="`half` cannot be decoded"):
        decode(BytesSource("half", lambda: whole[: len(whole) // 2]))


def test_an_archive_trains_exports_and_verifies_as_its_folder_does(
    archive: Path, tmp_path: Path, plugins: Plugins
) -> None:
    runs = [
        train(replace(TINY, data=data, epochs=1), out=tmp_path / name, plugins=plugins)
        for name, data in (("zip", f"archive:{archive}"), ("folder", str(archive.parent / "photos")))
    ]
    assert runs[0].record["weights_sha256"] == runs[1].record["weights_sha256"]
    assert runs[0].splits()["sha256"] == runs[1].splits()["sha256"]
    export(runs[0], plugins=plugins)
    checks = verify(runs[0].path / "model.onnx", data=runs[0].experiment.data, plugins=plugins)
    assert all(check.passed for check in checks)


def test_a_bad_member_is_left_out_and_reported(archive: Path, tmp_path: Path, plugins: Plugins) -> None:
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("train/red/bad.jpg", b"no image at all")
    run = train(replace(TINY, data=f"archive:{archive}", epochs=1), out=tmp_path / "run", plugins=plugins)
    assert run.record["bad_images"] == [{"path": "train/red/bad.jpg", "reason": "cannot be read as an image"}]


def test_paths_become_absolute_and_names_stay(
    archive: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a folder of a dataset's name: the dataset is meant, as when it is opened
    for spec, expected in {
        "photos": str(tmp_path / "photos"),
        "./photos": str(tmp_path / "photos"),
        "folder:photos": f"folder:{tmp_path / 'photos'}",
        "locked:photos": f"locked:{tmp_path / 'photos'}",
        "locked:locked:folder:photos": f"locked:locked:folder:{tmp_path / 'photos'}",
        "archive:photos.zip": f"archive:{tmp_path / 'photos.zip'}",
        "locked:archive:photos.zip": f"locked:archive:{tmp_path / 'photos.zip'}",
        "named:photos": "named:photos",
        "digits": "digits",
        "digits:": "digits:",
        "s3://bucket/photos": "s3://bucket/photos",
        "nowhere": "nowhere",
        "": "",
        "folder:": "folder:",
    }.items():
        assert absolute(spec, plugins) == expected, spec
        assert absolute(expected, plugins) == expected  # once more changes nothing


def test_a_run_finds_its_archive_from_anywhere(
    archive: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(replace(TINY, data="archive:photos.zip", epochs=1), out=tmp_path / "run", plugins=plugins)
    assert run.experiment.data == f"archive:{archive}"


def test_a_stream_is_closed() -> None:
    opened: list[io.BytesIO] = []

    class Remembering(BytesSource):
        def open(self) -> io.BytesIO:
            opened.append(io.BytesIO(self.load()))
            return opened[-1]

    source = Remembering("x", lambda: b"no image")
    with pytest.raises(BadImage):
        decode(source)
    content_digest(source)
    assert len(opened) == 2 and all(stream.closed for stream in opened)


@pytest.mark.parametrize("spec", ["digits", "locked:digits", "./digits", "folder:digits", "locked:folder:digits"])
def test_data_are_resolved_alike_by_every_command(
    spec: str, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a dataset is the dataset, also where there is a folder of that name; a note names the other."""
    make_photos(tmp_path / "digits", {"train": 3, "val": 2})
    (tmp_path / "study.toml").write_text(
        f'data = "{spec}"\nbackbones = ["timm/test_resnet"]\nstrategies = ["linear"]\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    there = Study.from_file(Path("study.toml"), plugins).data
    monkeypatch.chdir(tmp_path.parent)
    assert Study.from_file(tmp_path / "study.toml", plugins).data == there
    monkeypatch.chdir(tmp_path)
    opened = [
        open_images(spec, 0, plugins),  # plan, train's other process, advise
        open_images(absolute(spec, plugins), 0, plugins),  # train, study
        open_images(there, 0, plugins),
        open_to_score(spec, 0, plugins),  # evaluate
    ]
    dataset = spec.removeprefix("locked:") == "digits"
    for images in opened:
        assert len(images.classes) == (10 if dataset else 2)
        assert any("`./digits`" in note for note in images.notes) == dataset
    monkeypatch.chdir(tmp_path.parent)
    assert open_images(there, 0, plugins).splits.keys() == opened[0].splits.keys()


def test_a_path_in_python_is_a_folder(tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "digits", {"train": 3, "val": 2})
    monkeypatch.chdir(tmp_path)
    data = Experiment(data=Path("digits"), backbone="x", strategy="linear").data  # type: ignore[arg-type]
    assert open_images(data, 0, plugins).classes == ("blue", "red")
    assert Experiment(data=tmp_path, backbone="x", strategy="linear").data == str(tmp_path)  # type: ignore[arg-type]


def test_arrays_of_other_shapes_or_types_have_other_digests() -> None:
    shapes, kinds = ((4, 2, 3), (2, 4, 3), (8, 3)), (np.uint8, np.bool_)
    zeros: list[Any] = [np.zeros(shape, kind) for shape in shapes for kind in kinds]
    assert len({content_digest(ArraySource(array)) for array in zeros}) == len(zeros)
    turned = np.arange(24, dtype=np.uint8).reshape(4, 2, 3).transpose(1, 0, 2)
    assert content_digest(ArraySource(turned)) == content_digest(ArraySource(turned.copy()))
