"""Memory of decoding: a bound on the pixels that threads hold at once, and memory given back after large images."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from threading import Condition

# Most pixels that are decoded and not yet handed on: 600 MB. Sixteen photographs of 12 megapixels, which eight threads
# decode in advance, are 192 million, so only larger ones ever wait
PIXELS_IN_MEMORY = 200_000_000

# Images from this many pixels on are large: a camera's 12 million are not. glibc keeps what a thread has freed for that
# thread, so that each of eight threads would keep the 800 MB that decoding an image of 108 million pixels takes
LARGE = 25_000_000

KEPT = 2**20  # bytes, of a freed block
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class PixelBudget:
    """Bounds the pixels that threads hold at once. Images take their pixels in order, so the oldest never waits.

    The oldest image may take more than the whole budget; it is then alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self.turn = 0  # number of the image that may take its pixels now
        self.changed = Condition()
        self.closed = False
        self._given = 0

    def next_turn(self) -> Turn:
        self._given += 1
        return Turn(self, self._given - 1)

    def close(self) -> None:
        """Let every image that waits go on: the results are not wanted any more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Turn:
    """The share of one image in a `PixelBudget`."""

    def __init__(self, budget: PixelBudget, number: int) -> None:
        self._budget = budget
        self._number = number
        self._held = 0
        self._taken = False

    def take(self, pixels: int) -> None:
        """Wait for the turn of this image and for room. Further calls do nothing."""
        budget = self._budget
        if self._taken:
            return
        with budget.changed:
            budget.changed.wait_for(
                lambda: (
                    budget.closed
                    or (budget.turn == self._number and (budget.held == 0 or budget.held + pixels <= budget.size))
                )
            )
            self._taken, self._held = True, pixels
            budget.held += pixels
            budget.turn += 1
            budget.changed.notify_all()

    def give_back(self) -> None:
        """The image has left this module, or its thread has kept nothing of it."""
        with self._budget.changed:
            self._budget.held -= self._held
            self._held = 0
            self._budget.changed.notify_all()


def trim_memory(pixels: int) -> None:
    """Give freed memory back to the system after an image of so many pixels, if it is large (Linux with glibc)."""
    if pixels >= LARGE:
        give_back_memory()


def give_back_memory() -> None:
    """Give freed memory back to the system (Linux with glibc; elsewhere nothing happens)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def keep_little_memory() -> None:
    """Let this process give freed blocks of over `KEPT` bytes back at once.

    This needs Linux with glibc; elsewhere nothing happens.

    glibc raises that bound to the largest block that was freed, up to 32 MB, and then keeps such blocks in pieces: a
    server that gets images of all sizes would grow for hours.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, KEPT)  # setting one of them stops that both are raised
            library.mallopt(_TRIM_THRESHOLD, 8 * KEPT)
