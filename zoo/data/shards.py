"""Shards: files that hold many images each, such as the tar files of WebDataset, and are worked on one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo.data.sample_columns import Ranges, SampleColumns
from zoo.dataset import Sample
from zoo.errors import ZooError


@dataclass(frozen=True)
class Shard:
    """Some images of one file.

    Attributes:
        file: Its path.
        indices: `(N,)`, which of the samples they are.
        ranges: Where they are in the file, by offset.
    """

    file: str
    indices: npt.NDArray[np.int64]
    ranges: Ranges


def shards_of(samples: Sequence[Sample]) -> list[Shard] | None:
    """The files that samples are parts of, in the order in which they were opened; None: some are not parts of one."""
    if not len(samples):
        return []
    if not isinstance(samples, SampleColumns):
        return None
    found = samples.table.ranges(samples.rows)
    return None if found is None else [Shard(holder.file, indices, ranges) for holder, indices, ranges in found]


@dataclass(frozen=True)
class FileState:
    """Size in bytes and time of the last change in nanoseconds, by which a file is seen to have changed."""

    size: int
    changed: int

    @classmethod
    def of(cls, file: str) -> FileState:
        """The state of a file now.

        Raises:
            ZooError: it is gone, or may not be read.
        """
        try:
            found = Path(file).stat()
        except OSError as error:
            raise unreadable(file, error) from error
        return cls(found.st_size, found.st_mtime_ns)

    def check(self, file: str) -> None:
        """Check that a file is still in this state.

        Raises:
            ZooError: it is not.
        """
        if self.of(file) != self:
            raise ZooError(
                f"shard `{file}` has changed while it was in use",
                hint="let whatever writes it end, then run the same command again; features of other shards are kept",
            )


def digest_of_file(file: str) -> str:
    """SHA-256 of a file.

    Raises:
        ZooError: it cannot be read.
    """
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: str, error: OSError) -> ZooError:
    """The error of a shard that the system does not read."""
    return ZooError(
        f"shard `{file}` cannot be read: {(error.strerror or str(error)).lower()}",
        hint="restore it, then run the same command again; features of other shards are kept",
    )
