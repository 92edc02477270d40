"""Names of classes and images: when two spellings are the same name, and when they only look alike."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence


def composed(name: str) -> str:
    """The name in the Unicode form NFC: Linux and Windows write \u00e9 as one character, macOS as two."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """The name without what is easily overlooked: case, width and spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def keys(names: Sequence[str]) -> tuple[str, ...]:
    """What the names of one source are compared with those of another by, in order: their NFC form.

    Names of one source that differ in their Unicode form alone are different names there, and stay as they are.
    """
    counts = Counter(composed(name) for name in dict.fromkeys(names))
    return tuple(key if counts[key := composed(name)] == 1 else name for name in names)


def respelt(names: Iterable[str], like: Collection[str]) -> dict[str, str]:
    """Each name as `like` spells it; one that `like` does not have is unchanged."""
    known = list(dict.fromkeys(names))
    spelling = dict(zip(keys(list(like)), like))
    return {name: spelling.get(key, name) for name, key in zip(known, keys(known))}
