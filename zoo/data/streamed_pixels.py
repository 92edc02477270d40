"""Streamed pixels: images that are decoded each time they are asked for, where there is no room for their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from zoo.dataset import Sample
from zoo.errors import ZooError

Decode = Callable[[Sequence[Sample]], Iterator[tuple[Sample, Any]]]


class StreamedPixels:
    """Pixels `(N, h, w, 3)` uint8 of images, as an array has them. No pixels are kept.

    Attributes:
        shape: `(N, h, w, 3)`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], decode: Decode) -> None:
        """Take samples that could be decoded. `decode` yields each with its pixels, or with an error, in order."""
        self._samples, self._decode = samples, decode
        self.shape = (len(samples), *size, 3)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the pixels of each image `(h, w, 3)`.

        Raises:
            ZooError: an image can no longer be decoded.
        """
        for sample, found in self._decode(self._samples):
            if not isinstance(found, np.ndarray):
                raise ZooError(
                    f"`{sample.id}` could be decoded when the data were scanned, and cannot be now: {found}",
                    hint="do not change the photographs while they are in use",
                )
            yield found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        """The pixels of all images together."""
        return self[np.arange(len(self))].astype(dtype or np.uint8, copy=False)

    @overload
    def __getitem__(self, index: slice) -> StreamedPixels: ...

    @overload
    def __getitem__(self, index: int | npt.NDArray[np.int64] | Sequence[int]) -> npt.NDArray[np.uint8]: ...

    def __getitem__(
        self, index: int | slice | npt.NDArray[np.int64] | Sequence[int]
    ) -> npt.NDArray[np.uint8] | StreamedPixels:
        """One image `(h, w, 3)`, several `(n, h, w, 3)`, or those of a slice, which are decoded later.

        Raises:
            ZooError: an image can no longer be decoded.
        """
        size = self.shape[1:3]
        if isinstance(index, slice):
            return StreamedPixels(self._samples[index], size, self._decode)
        one = np.ndim(index) == 0
        indices = np.atleast_1d(np.asarray(index))
        some = StreamedPixels([self._samples[int(number)] for number in indices], size, self._decode)
        found = np.empty(some.shape, np.uint8)
        for row, pixels in zip(found, some):
            row[...] = pixels
        return found[0] if one else found
