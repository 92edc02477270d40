"""The scan: decode every image once, before the first step; report what is broken, keep the pixels of the rest.

What is kept is uint8 and bounded: up to a budget in memory, above it in a memory-mapped temporary file.
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

import numpy as np
import numpy.typing as npt

from zoo.dataset import Images, Sample
from zoo.errors import ZooError
from zoo.experiment import OnBadImage
from zoo.photograph import BadImage, Pixels, decode

# Anonymous memory for pixels; 10,000 images at 256 pixels are 2 GB. Beyond it pages are mapped and can be dropped
MEMORY_BUDGET = 2 * 2**30  # bytes


@dataclass(frozen=True)
class Scanned:
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


def decode_all(
    samples: Sequence[Sample], workers: int, convert: Callable[[Pixels], Pixels] | None = None
) -> Iterator[tuple[Sample, Pixels | BadImage]]:
    """Every sample with its pixels, or with what is wrong with it, in order; decoded by `workers` threads.

    Two images per thread are decoded ahead, not more: a photograph of 48 megapixels takes 144 MB.
    """

    def one(sample: Sample) -> Pixels | BadImage:
        try:
            pixels = decode(sample.source)
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


def scan(
    images: Images,
    parts: Mapping[str, tuple[Sequence[Sample], int, Callable[[Pixels], Pixels]]],
    *,
    on_bad_image: OnBadImage,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[dict[str, Scanned], list[BadFile]]:
    """Decode named parts of a dataset, each `(samples, side in pixels, conversion to that side)`.

    Raises:
        ZooError: `fail` was asked for and a file is bad, or a class has no usable image left in a part.
    """
    bad = [BadFile(name, reason) for name, reason in images.rejected]
    found = {
        name: _scan_part(name, samples, side, convert, images.classes, workers, advance, bad)
        for name, (samples, side, convert) in parts.items()
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


def _scan_part(
    name: str,
    samples: Sequence[Sample],
    side: int,
    convert: Callable[[Pixels], Pixels],
    classes: Sequence[str],
    workers: int,
    advance: Callable[[int], None],
    bad: list[BadFile],
) -> Scanned:
    pixels = allocate((len(samples), side, side, 3))
    usable: list[Sample] = []
    digest = hashlib.sha256()
    contents: list[str] = []
    for sample, result in decode_all(samples, workers, convert):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message.replace(f"`{sample.source}` ", "")))
        else:
            pixels[len(usable)] = result
            usable.append(sample)
            contents.append(_add(digest, sample))
        advance(1)
    index = {label: position for position, label in enumerate(classes)}
    labels = np.array([index[sample.label] for sample in usable], dtype=np.int64)
    return Scanned(tuple(usable), labels, pixels[: len(usable)], digest.hexdigest(), tuple(contents))


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


def content_digest(source: Path | Pixels) -> bytes:
    """SHA-256 of a file's bytes, or of an array's."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    return hashlib.sha256(np.ascontiguousarray(source).data).digest()


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
        raise ZooError(
            f"{size / 2**30:.1f} GiB of decoded pixels do not fit into `{tempfile.gettempdir()}`: {error.strerror}",
            hint="set TMPDIR to a folder with more room, or pass a smaller `--image-size`",
        ) from error


def default_workers() -> int:
    """Threads that decode where none are asked for: one per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
