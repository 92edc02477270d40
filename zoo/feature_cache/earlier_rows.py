"""Earlier rows: rows of single images in shards that another run has stored, which had other images beside them.

The store keeps rows by sets of images. A run that goes on from another has some of its images and new ones; those that
both have are found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from zoo.feature_cache.split_network import Rows


@dataclass(frozen=True, kw_only=True)
class EarlierImages:
    """Images of one role of another run, in its order.

    Attributes:
        names: Their ids.
        contents: SHA-256 of each.
    """

    names: Sequence[str]
    contents: Sequence[str]

    def shards(self, size: int) -> Iterator[EarlierImages]:
        """The images by shards of so many."""
        for start in range(0, len(self.names), size):
            stop = start + size
            yield EarlierImages(names=self.names[start:stop], contents=self.contents[start:stop])


class EarlierRows:
    """Rows that were found in the shards of another run, by what identifies an image."""

    def __init__(
        self,
        read: Callable[[EarlierImages], Rows | None],
        parts: Sequence[EarlierImages],
        size: int,
        *,
        by_name: bool,
    ) -> None:
        """Read every shard that is in the store.

        Args:
            read: Reads the rows of a shard; None: it is not there.
            parts: The images of another run.
            size: Number of images of a shard.
            by_name: Whether a row depends on the name of its image, and not on its content alone.
        """
        self._by_name = by_name
        self._found: dict[tuple[str, str], tuple[Rows, int]] = {}
        for shard in (shard for part in parts for shard in part.shards(size)):
            rows = read(shard)
            if rows is not None:
                places = enumerate(zip(shard.names, shard.contents))
                self._found |= {self._key(image): (rows, place) for place, image in places}

    def _key(self, image: tuple[str, str]) -> tuple[str, str]:
        """What identifies an image, from its name and the SHA-256 of its content."""
        name, content = image
        return (name if self._by_name else "", content)

    def missing(self, images: Sequence[tuple[str, str]]) -> npt.NDArray[np.int64]:
        """Places of the images, each a name and the SHA-256 of its content, whose rows are not here."""
        return np.array([place for place, image in enumerate(images) if self._key(image) not in self._found], np.int64)

    def rows(self, images: Sequence[tuple[str, str]], computed: Rows | None) -> Rows:
        """Rows of all images: those that are here, and the `computed` ones of those that are `missing`, in order."""
        others = iter(range(len(images)))
        places = [self._found.get(self._key(image)) or (computed, next(others)) for image in images]
        width = len(next(rows for rows, _ in places if rows is not None))
        return tuple(
            torch.stack([rows[number][place].cpu() for rows, place in places if rows is not None])
            for number in range(width)
        )
