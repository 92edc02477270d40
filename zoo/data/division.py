"""Division: what stands before the data in the text of `--data`, and says how to divide them.

`locked:DATA` locks the last split, `fold:2/5:DATA` holds the second of five folds out, `final:DATA` trains on all that
is not in `test`, and `splits:"FILE":DATA` divides by a table. A run records them with its data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoo.data.split_table import split_table_of, with_split_table
from zoo.dataset import FINAL, FOLD, LOCKED

_WORDS = re.compile(rf"(?:(?:{LOCKED}|{FINAL}|{FOLD}:\d+/\d+):)+")


def parted(spec: str) -> tuple[str, str]:
    """The words before the data, such as `locked:` or `fold:2/5:locked:`, which say how to divide them; and the data.

    The words are applied from the last to the first; see `zoo.data.opening`. A table of splits stays with the data.
    """
    found = _WORDS.match(spec)
    before = found[0] if found else ""
    return before, spec[len(before) :]


@dataclass(frozen=True)
class Division:
    """The text of `--data` in its parts.

    Attributes:
        words: As of `parted`.
        table: The table of splits. None: there is none.
        data: The data alone.
    """

    words: str
    table: str | None
    data: str

    @classmethod
    def of(cls, spec: str) -> Division:
        """Take a text apart; a table applies before all words, wherever it stands."""
        words, rest = parted(spec)
        table, data = split_table_of(rest)
        if table is None:
            return cls(words, None, data)
        more, data = parted(data)
        return cls(words + more, table, data)

    def __str__(self) -> str:
        """The text."""
        return self.words + (self.data if self.table is None else with_split_table(self.table, self.data))


def divided_like(own: str, spec: str, *, words: bool = True) -> str:
    """The text of a run's data in another place: divided as `own`, the run's, where it does not say how itself.

    Args:
        own: The run's data.
        spec: The data in another place.
        words: Whether the words are taken, too, and not only the table of splits.
    """
    mine, theirs = Division.of(own), Division.of(spec)
    before = theirs.words or (mine.words if words else "")
    return str(Division(before, theirs.table if theirs.table is not None else mine.table, theirs.data))


def undivided(spec: str) -> str:
    """The data alone: where images are looked up by their ids, no table of splits is needed, which may be gone."""
    return Division.of(spec).data
