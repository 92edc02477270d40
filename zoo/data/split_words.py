"""Split words: what folders, files and cells call the splits, and the role of each."""

from __future__ import annotations

import re
from pathlib import PurePath

from zoo.dataset import Role

# Usual names of split folders, and words in the split column of a table, in lower case
SPLIT_WORDS: dict[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}


def role_of(word: str) -> Role | None:
    """The role that a word stands for, in any case; None: it stands for none."""
    return SPLIT_WORDS.get(word.strip().lower())


def role_in_name(file: str) -> Role | None:
    """The role in a file's name, such as `train-0001.tar` or `labels_val.csv`; None: it has no word for one, or two."""
    words = re.split(r"[^A-Za-z]+", PurePath(file).name)
    found = {role for word in words if (role := role_of(word)) is not None}
    return found.pop() if len(found) == 1 else None
