"""Matching messages by their key words, so that messages can be reworded without changing tests.

    with refused(UsageError, "partial:9", "5", "resnet18"):
        ...
    assert not unsaid(captured.err, "partial:9", "5", "resnet18")

Key words are what a message is about: the value that was given, the name it belongs to, the option or file that mends
it. Glue ("asks for", "is not", "cannot be") is left to the writer of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


@contextmanager
def refused(kind: type[E], *words: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expects an exception whose message and hint say all `words`; two at least, so that no other message passes."""
    assert len(words) > 1, "name the offending value, and the thing that it belongs to"
    with pytest.raises(kind) as caught:
        yield caught
    missing = unsaid(str(caught.value), *words)
    assert not missing, f"{missing} not said in: {caught.value}"


def unsaid(text: str, *words: str) -> list[str]:
    """Those of the words that a text does not say: case-insensitively, and whole, so that `5` is not found in `15`."""
    return [word for word in words if not _pattern(word).search(text)]


def _pattern(word: str) -> re.Pattern[str]:
    assert word.strip() == word != "", f"`{word}` is no key word"
    before = r"(?<!\w)(?<!\d[.,])" if word[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if word[-1].isalnum() else ""
    return re.compile(f"{before}{re.escape(word)}{after}", re.IGNORECASE)
