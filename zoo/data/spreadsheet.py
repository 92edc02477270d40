"""Spreadsheets: CSV files that a person opens in a spreadsheet, edits and hands back, with ids that stay exact."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.errors import UsageError, ZooError

# A cell that begins with one of these runs as a formula in a spreadsheet (OWASP, "CSV injection"); the last is the mark
# itself, so that the text that begins with it comes back
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
MARK = "'"
DELIMITERS = ",;\t"  # spreadsheets of some countries write semicolons
MOST_BYTES = 256 * 2**20  # of a file that is read: a million rows


def defused(text: str) -> str:
    """A cell's text with a mark before it if a spreadsheet would run it as a formula; `restored` is the inverse."""
    return MARK + text if text.startswith(FORMULA) else text


def restored(cell: str) -> str:
    """The text that `defused` made a cell of. A cell without the mark is unchanged."""
    return cell[1:] if cell.startswith(MARK) and cell[1:].startswith(FORMULA) else cell


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV (RFC 4180) of texts; no cell runs as a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(header)
    writer.writerows([defused(cell) for cell in row] for row in rows)
    return stream.getvalue()


def read_csv(file: Path, option: str) -> tuple[bytes, list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file that a person may have edited: its bytes, its header in lower case, and rows with line numbers.

    The delimiter is the comma, semicolon or tab that is most frequent in the header. Empty lines are left out.

    Args:
        file: The file.
        option: The option that it was given for, for messages.

    Raises:
        UsageError: there is no such file.
        ZooError: it cannot be read, or is no CSV in UTF-8.
    """
    try:
        if file.is_dir():
            raise UsageError(f"`{option} {file}` is a folder, not a CSV file")
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"`{option} {file}`: there is no such file", hint="`zoo doctor` writes one") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ZooError(f"`{file}` cannot be read: {reason.lower()}") from error
    if len(data) > MOST_BYTES:
        raise ZooError(f"`{file}` is larger than {MOST_BYTES // 2**20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ZooError(
            f"`{file}` is not a text in UTF-8", hint="in the spreadsheet, save it as `CSV UTF-8 (comma delimited)`"
        ) from error
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ZooError(f"`{file}` is not a CSV file: line {reader.line_num}: {error}") from error
    if not rows:
        raise ZooError(f"`{file}` is empty", hint="it needs a line with the names of its columns, `id` among them")
    header = [name.strip().lower() for name in rows[0][1]]
    return data, header, rows[1:]
