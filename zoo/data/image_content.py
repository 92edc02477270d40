"""Contents of images: their digests, and sources that say which content was read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from zoo.dataset import ImageSource, Sample, as_source
from zoo.errors import Unreachable, first_line


def content_digest(source: ImageSource | Path | npt.NDArray[np.uint8]) -> bytes:
    """SHA-256 of an image's encoded bytes; if it is in memory, of its type, shape and pixels.

    Raises:
        OSError: it cannot be read, for whatever reason: a source of a plugin may raise anything.
        Unreachable: what holds it answers no more.
    """
    try:
        opened = as_source(source).open()
        if isinstance(opened, np.ndarray):
            digest = hashlib.sha256(f"{opened.dtype.str} {opened.shape}".encode())
            digest.update(np.ascontiguousarray(opened).data)
            return digest.digest()
        with opened:
            return hashlib.file_digest(opened, "sha256").digest()  # type: ignore[arg-type]  # any binary stream works
    except (OSError, Unreachable):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error


class DigestedSource:
    """A source that digests what it opens: a file may have changed since it was looked at.

    Attributes:
        digest: SHA-256 of what was opened last; empty: nothing could be.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.digest = b""

    def open(self) -> BinaryIO | npt.NDArray[np.uint8]:
        opened = self._source.open()
        if isinstance(opened, np.ndarray):
            self.digest = content_digest(opened)
            return opened
        try:
            self.digest = hashlib.file_digest(opened, "sha256").digest()  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError):  # a plugin's stream that is read by other means
            self.digest = b""
        except BaseException:
            opened.close()
            raise
        opened.seek(0)
        return opened

    def __str__(self) -> str:
        return str(self._source)


def digested(sample: Sample) -> Sample:
    """A sample whose source says which content was read."""
    return Sample(sample.id, sample.label, DigestedSource(sample.source), sample.group)
