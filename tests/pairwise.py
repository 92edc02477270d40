"""Choosing pairs out of a full product, so that every two features meet."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Pair = tuple[str, str]


def pairwise(
    rows: Mapping[str, Collection[str]],
    columns: Mapping[str, Collection[str]],
    *,
    each_row: int,
    each_column: int,
    never: Collection[Pair] = (),
) -> list[Pair]:
    """Pairs of a row and a column, greedily few, such that

    - wherever the full product has a pair with a given feature of a row and one of a column, so has this;
    - each row stands in at least `each_row` pairs and each column in at least `each_column`, if there are so many.

    Rows and columns are names with their features. Pairs in `never` are not chosen. Of pairs that are equally good the
    first is taken, so put cheap rows first.
    """
    possible = [(row, column) for row in rows for column in columns if (row, column) not in never]
    wanted = {meeting for pair in possible for meeting in meetings(rows, columns, pair)}
    chosen: list[Pair] = []
    missing = dict.fromkeys(rows, each_row) | dict.fromkeys(columns, each_column)

    def gain(pair: Pair) -> tuple[int, int]:
        return len(meetings(rows, columns, pair) & wanted), sum(missing[name] > 0 for name in pair)

    while possible:
        best = max(possible, key=gain)
        if gain(best) == (0, 0):
            break
        chosen.append(best)
        possible.remove(best)
        wanted -= meetings(rows, columns, best)
        for name in best:
            missing[name] -= 1
    return chosen


def meetings(rows: Mapping[str, Collection[str]], columns: Mapping[str, Collection[str]], pair: Pair) -> set[Pair]:
    """Every feature of the row with every feature of the column."""
    row, column = pair
    return {(one, other) for one in rows[row] for other in columns[column]}
