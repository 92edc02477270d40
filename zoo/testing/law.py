"""Laws: what holds for everything that a plugin registers, and how a check says that one is broken."""

from __future__ import annotations

import unittest

CLASSES = 3
IMAGES = 9  # in batches of 4, one image remains and joins the batch before it
# Largest difference of a logit between two networks that compute the same, as a share of the largest logit (at least 1)
ROUNDING = 1e-3


class Violation(AssertionError):
    """A law does not hold.

    Attributes:
        message: What does not hold, in one line.
        hint: How the plugin is mended. None: the message says it all.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class NotChecked(unittest.SkipTest):
    """A law cannot be checked here. pytest skips the test.

    Attributes:
        message: Why not, such as a device that is missing.
        hint: How it can be checked. None: it cannot.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def require(holds: bool, message: str, *, hint: str | None = None) -> None:
    """State a law.

    Raises:
        Violation: it does not hold.
    """
    if not holds:
        raise Violation(message, hint=hint)
