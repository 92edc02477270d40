"""Access token of a server, read from a file."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import UsageError


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: it cannot be read, is empty, or is no token.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"token file `{file}` cannot be read: {reason}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        what = "is empty" if not token else "holds other than printable ASCII without spaces"
        raise UsageError(f"token file `{file}` {what}", hint="`openssl rand -hex 32 > FILE` makes one")
    return token
