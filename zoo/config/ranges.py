"""Ranges in strategies of a study: `truncate:1..3` stands for `truncate:1`, `truncate:2` and `truncate:3`.

Every option that is a whole number takes a range, `epochs=` among them. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from typing import Any

from zoo.catalogue import Catalogue
from zoo.errors import UsageError

RANGE = re.compile(r"(-?[0-9]{1,9})\.\.(-?[0-9]{1,9})")
# Most strategies that one text may stand for: a study of more would not end, so a larger number is a typing error
MOST = 100


def expand_ranges(text: str, strategies: Catalogue[Any]) -> tuple[str, ...]:
    """The strategy texts that a text with ranges stands for, in order; the text itself where it has none.

    Of several ranges, every value of one is combined with every value of the others. What else is wrong with a text is
    left for `zoo.config.grammar.parse` to say.

    Raises:
        UsageError: a range ends before it begins, or the text stands for more than 100 strategies.
    """
    choices: list[list[str]] = []
    count = 1
    for part, piece in enumerate(text.split("+")):
        for position, word in enumerate(piece.split(",")):
            joint = ("," if position else "+") if part or position else ""
            key, mark, value = word.partition("=" if position else ":")
            name = piece.partition(",")[0].partition(":")[0].strip()
            found = RANGE.fullmatch(value.strip())
            if found is None or not _is_whole(name, key.strip() if position else None, strategies):
                choices.append([joint + word])
                continue
            first, last = int(found[1]), int(found[2])
            if last < first:
                raise UsageError(
                    f"strategy `{text}`: `{value.strip()}` ends before it begins", hint=f"write `{last}..{first}`"
                )
            count *= last - first + 1
            if count > MOST:
                raise UsageError(
                    f"strategy `{text}` stands for more than {MOST} strategies", hint="give smaller ranges"
                )
            choices.append([f"{joint}{key}{mark}{number}" for number in range(first, last + 1)])
    return tuple("".join(words) for words in itertools.product(*choices))


def _is_whole(name: str, option: str | None, strategies: Catalogue[Any]) -> bool:
    """Whether an option of a strategy is a whole number; None is its first option."""
    if option == "epochs":
        return True
    if name not in strategies:
        return False
    kind = strategies.find(name).value
    fields = [field.name for field in dataclasses.fields(kind)]
    wanted = option if option is not None else next(iter(fields), None)
    return wanted in fields and typing.get_type_hints(kind)[wanted] is int
