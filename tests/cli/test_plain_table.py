"""Tables for a pipe: they are those of rich, letter by letter."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from zoo_cli.plain_table import plain_table

ROWS = (("a", ""), ("longer than its title", "x `y` [bold]"), ("b", "0.5"))


@pytest.fixture(autouse=True)
def pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


@pytest.mark.parametrize("rows", [ROWS, (), (("name", "x" * 149),)])
def test_it_is_as_rich_prints_it(rows: tuple[tuple[str, str], ...]) -> None:
    from rich.markup import escape

    table = Table("name", "summary")
    for row in rows:
        table.add_row(*map(escape, row))
    file = io.StringIO()
    Console(file=file, width=160, highlight=False, emoji=False).print(table)
    text = plain_table(("name", "summary"), rows)
    assert text is not None and [line.rstrip() for line in text.splitlines()] == file.getvalue().rstrip().splitlines()


@pytest.mark.parametrize("cell", ["x" * 150, "日本", "two\nlines", "\x1b[1m"])
def test_what_rich_has_to_measure_is_left_to_it(cell: str) -> None:
    assert plain_table(("name", "summary"), [("a", cell)]) is None


def test_a_wish_for_colours_or_columns_is_left_to_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_table(("name",), []) is not None
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert plain_table(("name",), []) is None
