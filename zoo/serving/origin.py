"""Origins of web pages, as browsers send them (RFC 6454): scheme, host, and a port that is not the scheme's own."""

from __future__ import annotations

from urllib.parse import urlsplit

from zoo.errors import UsageError

PORTS = {"http": 80, "https": 443}


def check_origin(text: str) -> None:
    """Check that a browser could send this text as the origin of a page; any other would never be met.

    Raises:
        UsageError: it could not.
    """
    hint = "an origin is such as `https://shop.example.org` or `http://localhost:3000`; name each one"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not parts.scheme or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"`{text}` is not the origin of a web page", hint=hint)
    shown = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{shown}" + ("" if port is None or port == PORTS.get(parts.scheme) else f":{port}")
    if origin != text:
        raise UsageError(f"`{text}` is not the origin of a web page as browsers write it", hint=f"pass `{origin}`")
