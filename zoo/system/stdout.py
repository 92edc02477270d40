"""The standard streams: stdout is kept for data while code of plugins runs, and stderr may go away."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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


class _Expendable(io.FileIO):
    """A file that takes what cannot be written, and drops it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # nothing will ever be read: a process that is started later must not end of it
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
        except OSError:  # a full disk, which may have room again later
            pass
        return len(data)


def expendable(stream: TextIO) -> TextIO:
    """A stream for messages that may get lost: a reader that is gone or a full disk must not end hours of training.

    Args:
        stream: stderr. One that is no file, as in a test, is returned as it is.
    """
    if type(stream) is not io.TextIOWrapper:
        return stream
    try:
        raw = _Expendable(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):
        return stream
    # As Python opens it: each write goes out at the end of a line, and never fails for a letter
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True)


def _flush_c_streams() -> None:
    import ctypes  # not at the top: it takes milliseconds, and plugins that are not built in are rare

    ctypes.CDLL(None).fflush(None)
