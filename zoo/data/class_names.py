"""Class names: when two spellings are the same name, and when they only look alike."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """The name in the Unicode form NFC: Linux and Windows write \u00e9 as one character, macOS as two."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """The name without what is easily overlooked: case, width and spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
