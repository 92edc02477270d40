"""The standard output while code of plugins runs: it is kept for data, and what others print goes to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[TextIO]:
    """Send what other code prints to stderr, also what a C library writes to descriptor 1; yields the real stdout.

    Code of plugins prints where it likes, but stdout is for data, such as the JSON that a program reads.
    """
    before = sys.stdout
    data, kept = before, None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no stream of the system's, as in a test
        before.flush()
        if before.fileno() == 1:
            kept = os.dup(1)
            os.dup2(2, 1)
            data = open(os.dup(kept), "w", encoding=before.encoding, errors=before.errors)  # noqa: SIM115, PTH123
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield data
            data.flush()
    finally:
        if kept is not None:
            with contextlib.suppress(OSError, AttributeError):
                _flush_c_streams()  # what C code has printed waits in a buffer
            os.dup2(kept, 1)
            os.close(kept)
        if data is not before:
            with contextlib.suppress(OSError):  # the reader is gone, which `flush` has said
                data.close()


def _flush_c_streams() -> None:
    import ctypes  # not at the top: it takes milliseconds, and plugins that are not built in are rare

    ctypes.CDLL(None).fflush(None)
