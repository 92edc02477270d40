"""Decoding: every image is decoded once, before the first training step. Bad files are reported, pixels are kept.

The pixels are uint8. They are kept in the store, where a later run finds them. Without a store they are kept in memory
up to a budget, and beyond it in a temporary file. Files are memory-mapped, and what of them is in memory is bounded.
Where no file has room, images are decoded again whenever their pixels are needed.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.data.digest_column import Digests
from zoo.data.grey_levels import Levels
from zoo.data.image import BadImage, Pixels, UnreadImage, decode
from zoo.data.image_content import DigestedSource, content_digest, digested
from zoo.data.pixel_budget import PIXELS_IN_MEMORY, PixelBudget, Turn, trim_memory
from zoo.data.sample_columns import columns_of, label_counts
from zoo.data.streamed_pixels import StreamedPixels
from zoo.dataset import Images, Sample
from zoo.errors import ZooError, counted
from zoo.experiment import OnBadImage
from zoo.storage.mapped_memory import PageBudget
from zoo.storage.tensor_store import MAX_SHARE, Draft, Store, digest_of_texts
from zoo.system.processors import usable_cpus

# Largest array of pixels in memory where there is no store: 1,300 images of 256 x 256. A larger one is a mapped file,
# whose pages the system can drop
MEMORY_BUDGET = 256 * 2**20  # bytes


# The role of images that no command but `zoo evaluate` uses, and that are checked with all others
CHECKED = "checked"


@dataclass(frozen=True)
class DecodedImages:
    """The usable images of one part of the data.

    Attributes:
        samples: Their samples.
        labels: `(N,)`, class indices.
        pixels: `(N, h, w, 3)` uint8: canvases of images that are trained on, input crops of all others. Where there is
            no room for them, they are decoded when they are asked for.
        digest: SHA-256 over names, labels and contents. It detects that data have changed.
        contents: SHA-256 of each image's content. They tell which image has changed.
        doubtful: What was wrong with images that are used nevertheless.
    """

    samples: Sequence[Sample]
    labels: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8] | StreamedPixels
    digest: str
    contents: Sequence[str] = ()
    doubtful: tuple[BadFile, ...] = ()


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, or only with doubt: its path below the data folder (`id`), and the reason."""

    id: str
    reason: str


def doubts_text(files: Sequence[BadFile]) -> str:
    """A warning that names images that are used though something is wrong with them."""
    shown = "".join(f"\n  {file.id}: {file.reason}" for file in files[:10])
    more = f"\n  and {len(files) - 10} more" if len(files) > 10 else ""
    what = counted(
        len(files),
        "photograph is used though something is wrong with it",
        "photographs are used though something is wrong with them",
    )
    return f"{what}:{shown}{more}"


class DecodeRequest(NamedTuple):
    """A part of the data to be decoded.

    Attributes:
        samples: The samples.
        size: Height and width of the kept pixels.
        convert: Converts a decoded image to `(height, width, 3)`.
        at_least: See `zoo.data.image.decode`.
        levels: See `zoo.data.image.decode`.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    convert: Callable[[Pixels], Pixels]
    at_least: int | None = None
    levels: Levels | None = None


def decode_all(
    samples: Iterable[Sample],
    workers: int,
    convert: Callable[[Pixels], Pixels] | None = None,
    at_least: int | None = None,
    *,
    levels: Levels | None = None,
    remark: Callable[[Sample, str], None] = lambda sample, text: None,
) -> Iterator[tuple[Sample, Pixels | BadImage]]:
    """Decode samples in `workers` threads, and yield each in order with its pixels, or with the error.

    Only two images per thread are decoded in advance, and no more than `PIXELS_IN_MEMORY` at once.

    Args:
        samples: The samples.
        workers: Number of threads.
        convert: Applied to the pixels of each image, in the same thread.
        at_least: See `zoo.data.image.decode`.
        levels: See `zoo.data.image.decode`.
        remark: Receives what was wrong with an image that is decoded nevertheless; called by any thread.
    """

    def one(sample: Sample, turn: Turn | None = None) -> Pixels | BadImage:
        try:
            admit = turn.take if turn is not None else lambda pixels: None
            told = lambda text: remark(sample, text)
            pixels = decode(sample.source, at_least, levels=levels, remark=told, admit=admit)
        except BadImage as error:
            return error
        finally:
            if turn is not None:
                turn.take(0)  # for an image that took none: those after it wait for its turn
        trim_memory(pixels.size // 3)
        return pixels if convert is None else convert(pixels)

    if workers == 1:
        for sample in samples:
            yield sample, one(sample)
        return
    budget = PixelBudget(PIXELS_IN_MEMORY)

    def submit(sample: Sample) -> tuple[Sample, Turn, Future[Pixels | BadImage]]:
        turn = budget.next_turn()
        return sample, turn, pool.submit(one, sample, turn)

    with ThreadPoolExecutor(workers) as pool:
        remaining = iter(samples)
        pending = [submit(sample) for sample in islice(remaining, 2 * workers)]
        try:
            while pending:
                sample, turn, future = pending.pop(0)
                for following in islice(remaining, 1):
                    pending.append(submit(following))
                result = future.result()
                turn.give_back()
                yield sample, result
                del result  # the next is waited for without this one in memory
        finally:
            budget.close()
            pool.shutdown(wait=True, cancel_futures=True)


def decode_parts(
    images: Images,
    parts: Mapping[str, DecodeRequest],
    *,
    on_bad_image: OnBadImage,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
    store: Store | None = None,
    keys: Mapping[str, Mapping[str, Any]] | None = None,
    known: Mapping[str, tuple[Digests, ImageNotes]] | None = None,
) -> tuple[dict[str, DecodedImages], list[BadFile]]:
    """Decode parts of a dataset, and find the files that cannot be used.

    Args:
        images: The dataset.
        parts: What to decode, by role: `fit`, `choose`, `reported`. Of `CHECKED` it is only asked whether they can be
            decoded, and what their contents are.
        on_bad_image: Whether a bad file is left out (`skip`) or an error (`fail`).
        workers: Number of threads.
        advance: Receives the number of images as they are decoded.
        store: Where decoded pixels are kept, and found again as long as no file changes. None: nowhere.
        keys: What the pixels of each part depend on besides the files, as JSON values.
        known: Contents of parts that need no decoding now, and what was found about their images. Their pixels are
            decoded whenever they are asked for.

    Raises:
        ZooError: a file is bad and `on_bad_image` is `fail`, or a class has no usable image in a part.
    """
    bad = [BadFile(name, reason) for name, reason in images.rejected]
    found = {
        name: _usable(part, images.classes, workers, advance, bad, *known[name], None)
        if known is not None and name in known
        else _find_or_decode(part, images.classes, workers, advance, bad, _StoredPixels(store, (keys or {}).get(name)))
        for name, part in parts.items()
    }
    if bad and on_bad_image == "fail":
        lines = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:20])
        more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise ZooError(
            f"{counted(len(bad), 'file')} of `{images.name}` cannot be read as images:{lines}{more}",
            hint="repair or remove them, or pass `--on-bad-image skip`",
        )
    for name, part in found.items():
        if name == CHECKED:
            continue
        missing = set(images.classes) - set(label_counts(part.samples))
        if missing:
            first = next((file for file in bad if f"/{min(missing)}/" in f"/{file.id}"), None)
            raise ZooError(
                f"class `{min(missing)}` has no usable photograph left to {_PURPOSE[name]} in `{images.name}`",
                hint=f"its first bad file is `{first.id}`: {first.reason}" if first else None,
            )
    return found, bad


def decode_part(
    part: DecodeRequest,
    classes: Sequence[str],
    *,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
    store: Store | None = None,
    key: Mapping[str, Any] | None = None,
) -> tuple[DecodedImages, list[BadFile]]:
    """Decode one part of a dataset, whatever is wrong with it; also the files that cannot be used.

    Args:
        part: What to decode.
        classes: Names of the classes, which labels are indices of.
        workers: Number of threads.
        advance: Receives the number of images as they are decoded.
        store: Where decoded pixels are kept. None: nowhere.
        key: What the pixels depend on besides the files, as JSON values.
    """
    bad: list[BadFile] = []
    return _find_or_decode(part, classes, workers, advance, bad, _StoredPixels(store, key)), bad


_PURPOSE = {"fit": "train on", "choose": "validate on", "reported": "report on"}


class ImageNotes(NamedTuple):
    """What was found while images were decoded, by their index: why some cannot be used, and doubts about others."""

    bad: dict[int, str]
    doubtful: dict[int, str]


@dataclass(frozen=True)
class _StoredPixels:
    """Pixels of one part in the store, if there is a store. `key` is what they depend on besides the files."""

    store: Store | None
    key: Mapping[str, Any] | None

    def find(self, contents: Sequence[str]) -> tuple[npt.NDArray[np.uint8], ImageNotes] | None:
        """The pixels of the usable images, and what was found about images; None: not in the store."""
        found = None if self.store is None else self.store.read_rows(self._key(contents))
        if found is None:
            return None
        rows, note = found
        return rows, ImageNotes(*({int(index): str(text) for index, text in one.items()} for one in note))

    def draft(self, contents: Sequence[str], shape: tuple[int, ...]) -> Draft | None:
        """A new entry of the store to decode into; None where nothing can be stored."""
        return None if self.store is None else self.store.draft(self._key(contents), shape)

    def _key(self, contents: Sequence[str]) -> dict[str, Any]:
        return {"kind": "pixels", **(self.key or {}), "images": digest_of_texts(contents)}


def _find_or_decode(
    part: DecodeRequest,
    classes: Sequence[str],
    workers: int,
    advance: Callable[[int], None],
    bad: list[BadFile],
    stored: _StoredPixels,
) -> DecodedImages:
    """The decoded images of a part, from the store if it has them. Files that cannot be used are added to `bad`."""
    samples = columns_of(part.samples)
    contents = Digests.of(map(_content, samples), len(samples))
    kept_pixels: npt.NDArray[np.uint8] | None
    found = stored.find(contents)
    if found is not None:
        kept_pixels, notes = found
        return _usable(part, classes, workers, advance, bad, contents, notes, kept_pixels)
    draft = stored.draft(contents, (len(samples), *part.size, 3))
    kept_pixels, notes = _decode_part(part, contents, workers, advance, draft)
    return _usable(part, classes, workers, lambda count: None, bad, contents, notes, kept_pixels)


def _usable(
    part: DecodeRequest,
    classes: Sequence[str],
    workers: int,
    advance: Callable[[int], None],
    bad: list[BadFile],
    contents: Digests,
    notes: ImageNotes,
    kept_pixels: npt.NDArray[np.uint8] | None,
) -> DecodedImages:
    """The images of a part that can be used, by what was found about all of them. The others are added to `bad`."""
    samples = columns_of(part.samples)
    advance(len(samples))
    bad += (BadFile(samples[index].id, reason) for index, reason in sorted(notes.bad.items()))
    if notes.bad:
        kept = np.delete(np.arange(len(samples)), list(notes.bad))
        usable, contents = samples.take(kept), contents.take(kept)
    else:
        usable = samples
    digest = hashlib.sha256()
    for sample, content in zip(usable, contents):
        digest.update(f"{sample.id}\0{sample.label}\0".encode() + bytes.fromhex(content))
    pixels = kept_pixels if kept_pixels is not None else _streamed(part, usable, contents, workers)
    labels = usable.label_indices(classes)
    doubtful = tuple(BadFile(samples[index].id, text) for index, text in sorted(notes.doubtful.items()))
    return DecodedImages(usable, labels, pixels, digest.hexdigest(), contents, doubtful)


def _streamed(part: DecodeRequest, usable: Sequence[Sample], contents: Digests, workers: int) -> StreamedPixels:
    """The pixels of images, decoded whenever they are asked for."""

    def decode_again(samples: Iterable[Sample], count: int) -> Iterator[tuple[Sample, Pixels | BadImage]]:
        return decode_all(samples, max(1, min(workers, count)), part.convert, part.at_least, levels=part.levels)

    return StreamedPixels(usable, contents, part.size, decode_again)


def streamed_text(parts: Iterable[DecodedImages]) -> str | None:
    """A line that says that pixels are not kept; None where all are."""
    streamed = [part.pixels.shape for part in parts if isinstance(part.pixels, StreamedPixels)]
    if not streamed:
        return None
    size = sum(math.prod(shape) for shape in streamed)
    return (
        f"{size / 2**30:,.1f} GiB of pixels fit neither into the store nor into `{tempfile.gettempdir()}`, so images "
        "are decoded again whenever they are needed; the result is the same"
    )


def _decode_part(
    part: DecodeRequest, contents: Digests, workers: int, advance: Callable[[int], None], draft: Draft | None
) -> tuple[npt.NDArray[np.uint8] | None, ImageNotes]:
    """Decode a part into an entry of the store, or into new memory.

    Returns the pixels of the usable images, or None where there is no room to keep them; and what was found about
    images. A content in `contents` that was another when it was decoded is replaced by that one.
    """
    samples, size, convert, at_least, levels = part
    pixels = draft.array if draft is not None else allocate((len(samples), *size, 3))
    budget = PageBudget(pixels, MEMORY_BUDGET) if pixels is not None else None
    notes = ImageNotes({}, {})
    texts: dict[int, list[str]] = {}  # by the identity of a sample: two may have one id
    count, is_steady = 0, True

    def remark(sample: Sample, text: str) -> None:
        texts.setdefault(id(sample), []).append(text)

    try:
        decoded = decode_all(
            (digested(sample) for sample in samples), workers, convert, at_least, levels=levels, remark=remark
        )
        for index, (sample, result) in enumerate(decoded):
            assert isinstance(sample.source, DigestedSource)
            read = sample.source.digest
            if isinstance(result, UnreadImage) or not read:
                is_steady &= isinstance(result, UnreadImage) == (not contents[index])
            elif read != contents.array[index].tobytes():
                contents.array[index], is_steady = np.frombuffer(read, np.uint8), False
            if isinstance(result, BadImage):
                notes.bad[index] = result.message.replace(f"`{sample.source}` ", "")
            else:
                if pixels is not None and budget is not None:
                    pixels[count] = result
                    budget.touched(1)
                count += 1
                if id(sample) in texts:
                    notes.doubtful[index] = "; ".join(texts[id(sample)])
            texts.pop(id(sample), None)  # another sample may get this identity
            advance(1)
    except BaseException:
        if draft is not None:
            draft.drop()
        raise
    # an entry is found by contents. An image that was another when it was decoded than when it was hashed, or could be
    # read at one time only, would be found by the wrong one
    if draft is not None and not is_steady:
        draft.drop()
    elif draft is not None:
        return draft.keep(count, notes), notes
    return None if pixels is None else pixels[:count], notes


def _content(sample: Sample) -> bytes:
    """SHA-256 of an image's content; empty for a file that cannot be read."""
    try:
        return content_digest(sample.source)
    except OSError:
        return b""


def digest_of(samples: Iterable[Sample]) -> str:
    """SHA-256 over names, labels and contents of samples, in order.

    Raises:
        OSError: an image cannot be read.
    """
    digest = hashlib.sha256()
    for sample in samples:
        _add(digest, sample)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, sample: Sample) -> str:
    content = content_digest(sample.source)
    digest.update(f"{sample.id}\0{sample.label}\0".encode())
    digest.update(content)
    return content.hex()


def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """An uninitialised uint8 array: in memory up to `MEMORY_BUDGET`, else mapped to an unnamed temporary file.

    None where such a file would take more than half of the room that its disk has.
    """
    size = math.prod(shape)
    if size <= MEMORY_BUDGET:
        return np.empty(shape, np.uint8)
    try:
        if size > MAX_SHARE * shutil.disk_usage(tempfile.gettempdir()).free:
            return None
        with tempfile.TemporaryFile(prefix="zoo-pixels-") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)  # the map keeps the file until it is freed
    except OSError:  # another process has filled the disk, or nobody may write there
        return None


def default_workers() -> int:
    """Default number of threads that decode images: one per core that this process may use, at most 8."""
    return min(usable_cpus(), 8)
