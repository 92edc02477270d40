"""Access token of a server, read from a file."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import ZooError


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ZooError: it cannot be read, is empty, or is no token.
    """
    make = "`openssl rand -hex 32 > FILE` makes one"
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
        raise ZooError(f"token file `{file}` cannot be read: {reason}", hint=make) from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        what = "is empty" if not token else "holds other than printable ASCII without spaces"
        raise ZooError(f"token file `{file}` {what}", hint=make)
    return token
