"""Paths as users type them: `~` is expanded, and what cannot be written down is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo.errors import UsageError
from zoo.storage.address import without_secret

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of `s3://bucket` a `Path` keeps one slash


def user_path(text: Path | str) -> Path:
    """A path with `~` or `~user` at its beginning expanded.

    Raises:
        UsageError: there is no such user, or the user has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        first = Path(text).parts[0]
        who = f"user `{first[1:]}`" if len(first) > 1 else "home folder"
        raise UsageError(
            f"there is no {who}, so `{text}` is no path", hint=f"for a file or folder named `{first}`, write `./{text}`"
        ) from error


def data_text(data: Path | str) -> str:
    """The text of `--data` for what is given in Python: a `Path` is a folder, never the name of a dataset."""
    text = os.fspath(data)
    return text if isinstance(data, str) or Path(text).is_absolute() else os.path.join(".", text)  # noqa: PTH118


def check_recordable(text: Path | str, option: str) -> None:
    """Check that a path can be written to JSON, to a report and to an exported file.

    Args:
        text: The path.
        option: The option that it was given for, such as `--data`.

    Raises:
        UsageError: it is not valid UTF-8.
    """
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"`{option}` {str(text)!a} is not valid UTF-8",
            hint="rename the folder, or make a link to it with another name: `ln -s`",
        ) from error


def output_path(text: Path | str, option: str = "--out") -> Path:
    """The path of a file or folder to be written.

    Raises:
        UsageError: it is a URL or not valid UTF-8, or there is no such user.
    """
    check_recordable(text, option)
    if _URL.match(str(text)):
        address = without_secret(str(text))
        raise UsageError(
            f"`{option}` is a URL, `{address}`, and zoo writes to local files alone",
            hint="pass a local folder or file, and copy it there afterwards",
        )
    return user_path(text)
