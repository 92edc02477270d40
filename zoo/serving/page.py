"""The page at `/`, and the policy by which a browser runs its own script and style and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from zoo.data.image_formats import OPTIONAL, READ, format_names


@cache
def page(accept: tuple[str, ...] = ()) -> tuple[str, str]:
    """The page of a server that reads these optional formats, and its `Content-Security-Policy`.

    The policy names script and style by their digests. No text that gets into the page can run or be markup, even if
    the page had a fault (`require-trusted-types-for`), and photographs can go to this server alone.
    """
    text = files("zoo.serving").joinpath("page.html").read_text(encoding="utf-8")
    suffixes = [suffix for one in (*READ, *OPTIONAL) if one in READ or one.name in accept for suffix in one.suffixes]
    text = text.replace("FORMAT_SUFFIXES", ",".join(suffixes)).replace("FORMAT_NAMES", format_names(accept))
    policy = (
        "default-src 'none'",
        f"script-src {_digest(text, 'script')}",
        f"style-src {_digest(text, 'style')}",
        "img-src data:",  # an empty icon
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return text, "; ".join(policy)


def _digest(text: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
