"""A fault of the server itself, told in one line: the log of a server is no place for tracebacks that clients cause."""

from __future__ import annotations

import traceback
from pathlib import Path

from zoo.errors import type_and_first_line


def where(error: BaseException) -> str:
    """The type and message of an error, and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type_and_first_line(error)[:200]}{place}"
