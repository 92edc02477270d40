"""The scan: decode every image once, before the first step; report what is broken, keep the pixels of the rest.

What is kept is uint8 and mapped: in the store, where a later run finds it, else up to a budget in memory, else in a
temporary file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.data.image import BadImage, Pixels, decode
from zoo.dataset import Images, ImageSource, Sample, as_source
from zoo.errors import DiskFull, ZooError, is_disk_full
from zoo.experiment import OnBadImage
from zoo.storage.tensor_store import Draft, Store, digest_of_texts

# Anonymous memory for pixels that are not kept; 1,300 images at 256. Beyond it pages are mapped and can be dropped
MEMORY_BUDGET = 256 * 2**20  # bytes


@dataclass(frozen=True)
class DecodedImages:
    """The usable images of one split: samples, label indices `(N,)` and pixels `(N, side, side, 3)` uint8."""

    samples: tuple[Sample, ...]
    labels: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    digest: str  # SHA-256 over names, labels and contents, to tell other data apart
    contents: tuple[str, ...] = ()  # SHA-256 of each image's content, to tell which one changed


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, by its path below the data folder, with the reason."""

    id: str
    reason: str


class DecodeRequest(NamedTuple):
    """A part of the data to be decoded."""

    samples: Sequence[Sample]
    side: int  # pixels
    convert: Callable[[Pixels], Pixels]  # a photograph to `(side, side, 3)`
    at_least: int | None = None  # see `decode`


def decode_all(
    samples: Iterable[Sample],
    workers: int,
    convert: Callable[[Pixels], Pixels] | None = None,
    at_least: int | None = None,
) -> Iterator[tuple[Sample, Pixels | BadImage]]:
    """Every sample with its pixels, or with what is wrong with it, in order; decoded by `workers` threads.

    Two images per thread are decoded ahead, not more: a photograph of 48 megapixels takes 144 MB.
    """

    def one(sample: Sample) -> Pixels | BadImage:
        try:
            pixels = decode(sample.source, at_least)
        except BadImage as error:
            return error
        return pixels if convert is None else convert(pixels)

    if workers == 1:
        for sample in samples:
            yield sample, one(sample)
        return
    with ThreadPoolExecutor(workers) as pool:
        left = iter(samples)
        ahead = [(sample, pool.submit(one, sample)) for sample in islice(left, 2 * workers)]
        try:
            while ahead:
                sample, future = ahead.pop(0)
                for following in islice(left, 1):
                    ahead.append((following, pool.submit(one, following)))
                yield sample, future.result()
        finally:
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
) -> tuple[dict[str, DecodedImages], list[BadFile]]:
    """Decode named parts of a dataset.

    With a `store`, what was decoded is kept, and found again as long as no file changes; `keys` tell, for each part,
    what its pixels depend on beside the files.

    Raises:
        ZooError: `fail` was asked for and a file is bad, or a class has no usable image left in a part.
    """
    bad = [BadFile(name, reason) for name, reason in images.rejected]
    found = {
        name: _scan_part(part, images.classes, workers, advance, bad, _Shelf(store, (keys or {}).get(name)))
        for name, part in parts.items()
    }
    if bad and on_bad_image == "fail":
        lines = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:20])
        more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise ZooError(
            f"{len(bad)} files of `{images.name}` cannot be used as photographs:{lines}{more}",
            hint="mend or remove them, or pass `--on-bad-image skip`",
        )
    for name, part in found.items():
        missing = set(images.classes) - {sample.label for sample in part.samples}
        if missing:
            first = next((file for file in bad if f"/{min(missing)}/" in f"/{file.id}"), None)
            raise ZooError(
                f"class `{min(missing)}` has no usable photograph left to {_PURPOSE[name]} in `{images.name}`",
                hint=f"its first bad file is `{first.id}`: {first.reason}" if first else None,
            )
    return found, bad


_PURPOSE = {"fit": "train on", "choose": "choose on", "reported": "report on"}


@dataclass(frozen=True)
class _Shelf:
    """Where the pixels of a part are kept, if anywhere, and what they depend on beside the files."""

    store: Store | None
    key: Mapping[str, Any] | None

    def find(self, contents: Sequence[str]) -> tuple[npt.NDArray[np.uint8], dict[int, str]] | None:
        """Pixels of the usable images, and what is wrong with the others by their place."""
        found = None if self.store is None else self.store.read_rows(self._key(contents))
        if found is None:
            return None
        rows, note = found
        return rows, {int(place): str(reason) for place, reason in note.items()}

    def draft(self, contents: Sequence[str], shape: tuple[int, ...]) -> Draft | None:
        return None if self.store is None else self.store.draft(self._key(contents), shape)

    def _key(self, contents: Sequence[str]) -> dict[str, Any]:
        return {"kind": "pixels", **(self.key or {}), "images": digest_of_texts(contents)}


def _scan_part(
    part: DecodeRequest,
    classes: Sequence[str],
    workers: int,
    advance: Callable[[int], None],
    bad: list[BadFile],
    shelf: _Shelf,
) -> DecodedImages:
    samples, side = part.samples, part.side
    contents = [_content(sample) for sample in samples]
    found = shelf.find(contents)
    if found is not None:
        pixels, wrong = found
        advance(len(samples))
    else:
        draft = shelf.draft(contents, (len(samples), side, side, 3))
        pixels, wrong = _decode_part(part, workers, advance, draft)
    digest = hashlib.sha256()
    usable: list[Sample] = []
    for place, (sample, content) in enumerate(zip(samples, contents)):
        if place in wrong:
            bad.append(BadFile(sample.id, wrong[place]))
        else:
            usable.append(sample)
            digest.update(f"{sample.id}\0{sample.label}\0".encode() + bytes.fromhex(content))
    index = {label: position for position, label in enumerate(classes)}
    labels = np.array([index[sample.label] for sample in usable], dtype=np.int64)
    kept = tuple(content for place, content in enumerate(contents) if place not in wrong)
    return DecodedImages(tuple(usable), labels, pixels, digest.hexdigest(), kept)


def _decode_part(
    part: DecodeRequest, workers: int, advance: Callable[[int], None], draft: Draft | None
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    samples, side, convert, at_least = part
    pixels = draft.array if draft is not None else allocate((len(samples), side, side, 3))
    wrong: dict[int, str] = {}
    count = 0
    try:
        for place, (sample, result) in enumerate(decode_all(samples, workers, convert, at_least)):
            if isinstance(result, BadImage):
                wrong[place] = result.message.replace(f"`{sample.source}` ", "")
            else:
                pixels[count] = result
                count += 1
            advance(1)
    except BaseException:
        if draft is not None:
            draft.drop()
        raise
    if draft is not None:
        return draft.keep(count, wrong), wrong
    return pixels[:count], wrong


def _content(sample: Sample) -> str:
    """SHA-256 of an image's content in hexadecimal digits; of a file that cannot be read, nothing."""
    try:
        return content_digest(sample.source).hex()
    except OSError:
        return ""


def digest_of(samples: Iterable[Sample]) -> str:
    """SHA-256 over names, labels and contents, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        _add(digest, sample)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, sample: Sample) -> str:
    content = content_digest(sample.source)
    digest.update(f"{sample.id}\0{sample.label}\0".encode())
    digest.update(content)
    return content.hex()


def content_digest(source: ImageSource | Path | Pixels) -> bytes:
    """SHA-256 of an image's encoded bytes, or of its pixels in memory.

    Raises:
        OSError: it cannot be read.
    """
    opened = as_source(source).open()
    if isinstance(opened, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(opened).data).digest()
    with opened:
        return hashlib.file_digest(opened, "sha256").digest()  # type: ignore[arg-type]  # any binary stream will do


def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A uint8 array: in memory within the budget, else mapped to an unnamed temporary file.

    Raises:
        ZooError: the temporary file does not fit on the disk.
    """
    size = int(np.prod(shape))
    if size <= MEMORY_BUDGET:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(prefix="zoo-pixels-") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)  # holds the file open by itself
    except OSError as error:
        raise (DiskFull if is_disk_full(error) else ZooError)(
            f"{size / 2**30:.1f} GiB of decoded pixels do not fit into `{tempfile.gettempdir()}`: {error.strerror}",
            hint="set TMPDIR to a folder with more room, or pass a smaller `--image-size`",
        ) from error


def default_workers() -> int:
    """Threads that decode where none are asked for: one per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
