"""Memory by number of images: it grows by a bounded number of bytes an image, and never with pixels."""

from __future__ import annotations

import copy
import gc
import io
import shutil
import tarfile
import tracemalloc
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import TINY, make_photos

import zoo.data.decoding
from zoo import Images, Run, Sample, train
from zoo.data.decoding import DecodedImages, DecodeRequest, decode_parts
from zoo.data.digest_column import Digests
from zoo.data.image import Pixels
from zoo.data.leakage import digests, find_leaks
from zoo.data.opening import open_images
from zoo.data.roles import assign_roles
from zoo.data.sample_columns import Below, Place, SampleColumns, SampleTable, Texts, columns_of, joined
from zoo.data.streamed_pixels import StreamedPixels
from zoo.dataset import FileSource
from zoo.plugin import Plugins
from zoo.progress import Silent

BYTES = 300  # an image, at most
FEW, MANY = 500, 2_000


PER_SHARD = 100


def rows(count: int) -> list[tuple[str, str, bytes]]:
    """Name, class and content of images, whose ids are not in order."""
    names = (f"class_{number % 5}/a_folder/image_{number * 7919 % 100_000:06d}.jpg" for number in range(count))
    return [(name, name.partition("/")[0], name.encode()) for name in names]


def in_shards(place: Path, count: int) -> str:
    for shard in range(count // PER_SHARD):
        with tarfile.open(place / f"{shard:03d}.tar", "w") as archive:
            for name, label, content in rows(count)[shard * PER_SHARD : (shard + 1) * PER_SHARD]:
                for path, data in ((name, content), (name.replace(".jpg", ".cls"), label.encode())):
                    member = tarfile.TarInfo(path)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return f"wds:{place}/*.tar"


def in_parquet(place: Path, count: int) -> str:
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": content, "path": name} for name, _, content in rows(count)]
    table = pyarrow.table({"image": cells, "label": [label for _, label, _ in rows(count)]})
    pyarrow.parquet.write_table(table, place / "a.parquet", row_group_size=500)
    return f"parquet:{place}/a.parquet"


def in_table(place: Path, count: int) -> str:
    for name, _, content in rows(count):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    (place / "a.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label, _ in rows(count)))
    return f"csv:{place}/a.csv"


def in_folder(place: Path, count: int) -> str:
    in_table(place, count)
    (place / "a.csv").unlink()
    return str(place)


@pytest.mark.parametrize("source", [in_shards, in_parquet, in_table, in_folder])
def test_memory_grows_by_few_bytes_an_image(source: Callable[[Path, int], str], tmp_path: Path) -> None:
    """For opening, dividing, digests and the search for leaks, at their peak."""
    data: dict[int, str] = {}
    for count in (FEW, MANY):
        (tmp_path / str(count)).mkdir()
        data[count] = source(tmp_path / str(count), count)
    peaks: dict[int, int] = {}
    # each twice: the first imports what the others use, and Python's table of interned strings, which all paths share,
    # may double at any time
    for count in (FEW, MANY, FEW, MANY):
        peaks[count] = min(peak(data[count], count), peaks.get(count, 2**60))
    assert (peaks[MANY] - peaks[FEW]) / (MANY - FEW) < BYTES


def peak(data: str, count: int) -> int:
    """The most bytes at once of opening data, dividing them, digests, and the search for leaks."""
    gc.collect()
    tracemalloc.start()
    images = open_images(data, 0, Plugins())
    roles = assign_roles(images, replace(TINY, data=data))
    assert not find_leaks({"fit": digests(roles.fit), "val": digests(roles.choose)})
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(map(len, images.splits.values())) == count
    return found


def test_a_sequence_of_samples_is_a_tuple_of_them_that_takes_less() -> None:
    samples = tuple(Sample(f"a/{index}.jpg", "ab"[index % 2], Path(f"{index}.jpg")) for index in range(5))
    columns = columns_of(samples)
    assert columns == samples
    assert columns[1:4] == samples[1:4]
    assert columns + samples == samples * 2
    assert columns.label_counts() == {"a": 3, "b": 2}
    assert Images(name="x", classes=("a", "b"), splits={"train": columns}).splits["train"][-1] == samples[-1]


def test_columns_take_masks_and_refuse_what_is_no_index() -> None:
    """A mask that is taken for numbers gives the first two rows again and again."""
    samples = tuple(Sample(f"a/{index}.jpg", "ab"[index % 2], Path(f"{index}.jpg")) for index in range(5))
    columns = joined([columns_of(samples)])
    contents = Digests.of((bytes([index + 1] * 32) for index in range(5)), 5)
    streamed = StreamedPixels(columns, Digests.of([], 5), (1, 1), numbered_pixels)
    mask = np.array([False, True, True, False, True])
    assert columns.take(mask) == columns.take(mask.tolist()) == (samples[1], samples[2], samples[4])
    assert columns.take([]) == () and columns.take([-1]) == (samples[-1],)
    assert contents.take(mask) == (contents[1], contents[2], contents[4])
    assert streamed[mask].ravel().tolist()[::3] == [1, 2, 4]
    assert streamed[-1].ravel().tolist() == [4, 4, 4] and streamed[np.array([[0], [3]])].shape == (2, 1, 1, 1, 3)
    wrong: Any
    for wrong in ([0, 1], np.array([1, 2]), 1.0):
        for sequence in (columns, contents):
            with pytest.raises(TypeError):
                sequence[wrong]
    with pytest.raises(IndexError):
        streamed[wrong]


def numbered_pixels(samples: Iterable[Sample], count: int) -> Iterator[tuple[Sample, Pixels]]:
    for sample in samples:
        yield sample, np.full((1, 1, 3), int(sample.id[2]), np.uint8)


def test_texts_are_found_from_the_end_and_no_further() -> None:
    texts = Texts()
    for text in ("é", "", "\U0001f41d"):
        texts.append(text)
    assert texts[-1] == "\U0001f41d" and texts[-3] == "é"
    with pytest.raises(IndexError):
        texts[-4]


def test_a_copy_of_a_table_takes_samples_of_other_sources() -> None:
    """Sources are known by their identities, which are those of other objects after a copy."""
    table = SampleTable()
    table.add("a", "x", Place(Below(Path("first"))))
    other = copy.deepcopy(table)
    stale = next(iter(other._codes[2].values()))
    places = [Place(Below(Path(str(number)))) for number in range(50)]
    for number, place in enumerate(places):
        other._codes[2][id(place.sources)] = stale  # as chance may have it
        other.add(f"{number}.jpg", "x", place)
    assert [str(one.source) for one in SampleColumns(other)][1:] == [f"{number}/{number}.jpg" for number in range(50)]
    with pytest.raises(AssertionError):
        SampleTable.of((Sample("a", "x", Path("a")),)).add("b", "x", FileSource(Path("b")))


Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of a few free bytes, and a small budget of memory."""
    monkeypatch.setattr(zoo.data.decoding, "MEMORY_BUDGET", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(1000, 0, 1000))


def scanned(images: Images, converted: list[int]) -> DecodedImages:
    def convert(image: Pixels) -> Pixels:
        converted.append(1)
        return np.ascontiguousarray(image[:40, :40])

    request = DecodeRequest(images.splits["train"], (40, 40), convert)
    return decode_parts(images, {"fit": request}, on_bad_image="fail", workers=2)[0]["fit"]


def test_pixels_that_fit_nowhere_are_decoded_again(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    images = open_images(str(make_photos(tmp_path, {"train": 20, "val": 2})), 0, Plugins())
    kept = scanned(images, [])
    request.getfixturevalue("no_room")
    converted: list[int] = []
    tracemalloc.start()
    streamed = scanned(images, converted)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert isinstance(streamed.pixels, StreamedPixels)
    assert left < 40 * 40 * 40 * 3  # bytes: all pixels are more
    assert len(converted) == 40
    assert streamed.digest == kept.digest
    assert np.array_equal(streamed.pixels, kept.pixels)
    some = np.array([3, 0, 17])
    assert np.array_equal(streamed.pixels[some], kept.pixels[some])
    assert np.array_equal(streamed.pixels[5], kept.pixels[5])
    assert len(converted) == 40 + 40 + 4


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_run_without_room_for_pixels_or_features_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A source may be larger than the disk: nothing is kept but the run itself, and one line says so."""
    data = str(make_photos(tmp_path / "photos", {"train": 6, "val": 3}))
    experiment = replace(TINY, data=data, epochs=2)

    def run(name: str) -> tuple[Run, list[str]]:
        told = Notes()
        return train(experiment, out=tmp_path / name, progress=told), told.notes

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    stored, _ = run("stored")
    assert list((tmp_path / "cache").rglob("*.rows"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "none"))
    request.getfixturevalue("no_room")
    unstored, notes = run("unstored")
    assert [note for note in notes if "decoded again" in note]
    assert not [file for file in (tmp_path / "none").rglob("*") if file.suffix in (".rows", ".safetensors")]
    assert unstored.record["weights_sha256"] == stored.record["weights_sha256"]
    assert unstored.splits() == stored.splits()
