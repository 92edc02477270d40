"""Streamed pixels: images that are decoded each time they are asked for, where there is no room for their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from zoo.data.digest_column import Digests
from zoo.data.image_content import DigestedSource, digested
from zoo.dataset import Sample
from zoo.errors import ZooError

Decode = Callable[[Iterable[Sample], int], Iterator[tuple[Sample, Any]]]


class StreamedPixels:
    """Pixels `(N, h, w, 3)` uint8 of images, as an array has them. No pixels are kept.

    Attributes:
        shape: `(N, h, w, 3)`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, samples: Sequence[Sample], contents: Digests, size: tuple[int, int], decode: Decode) -> None:
        """Take samples that could be decoded, and their contents.

        `decode` takes samples and their number, and yields each with its pixels, or with an error, in order.
        """
        self._samples, self._contents, self._decode = samples, contents, decode
        self.shape = (len(samples), *size, 3)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the pixels of each image `(h, w, 3)`.

        Raises:
            ZooError: an image can no longer be decoded, or is another one by now.
        """
        hint = "do not change the photographs while they are in use"
        decoded = self._decode(map(digested, self._samples), len(self))
        for (sample, found), content in zip(decoded, self._contents):
            if not isinstance(found, np.ndarray):
                raise ZooError(
                    f"`{sample.id}` could be decoded when the data were scanned, and cannot be now: {found}", hint=hint
                )
            assert isinstance(sample.source, DigestedSource)
            if sample.source.digest.hex() != content:
                raise ZooError(f"`{sample.id}` has changed since the data were scanned", hint=hint)
            yield found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        """The pixels of all images together."""
        return self[np.arange(len(self))].astype(dtype or np.uint8, copy=False)

    @overload
    def __getitem__(self, index: slice) -> StreamedPixels: ...

    @overload
    def __getitem__(self, index: int | npt.NDArray[Any] | Sequence[int]) -> npt.NDArray[np.uint8]: ...

    def __getitem__(
        self, index: int | slice | npt.NDArray[Any] | Sequence[int]
    ) -> npt.NDArray[np.uint8] | StreamedPixels:
        """One image `(h, w, 3)`, several `(n, h, w, 3)`, or those of a slice, which are decoded later.

        Raises:
            ZooError: an image can no longer be decoded, or is another one by now.
        """
        size = self.shape[1:3]
        if isinstance(index, slice):
            return StreamedPixels(self._samples[index], self._contents[index], size, self._decode)
        chosen = np.arange(len(self))[index]  # as numpy takes masks, negative numbers and what is none of these
        indices = chosen.reshape(-1)
        samples = [self._samples[number] for number in indices.tolist()]
        found = np.empty((len(samples), *self.shape[1:]), np.uint8)
        for row, pixels in zip(found, StreamedPixels(samples, self._contents.take(indices), size, self._decode)):
            row[...] = pixels
        return found.reshape(*chosen.shape, *self.shape[1:])
