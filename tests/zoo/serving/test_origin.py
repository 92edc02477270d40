"""Origins of web pages: only what a browser sends is taken."""

from __future__ import annotations

import pytest

from zoo.errors import UsageError
from zoo.serving.origin import check_origin


@pytest.mark.parametrize(
    "origin",
    ["https://a.org", "http://localhost:3000", "http://127.0.0.1:8000", "https://[::1]:1", "chrome-extension://abc"],
)
def test_what_browsers_send(origin: str) -> None:
    check_origin(origin)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("https://a.org/", "https://a.org"),
        ("https://A.org", "https://a.org"),
        ("HTTPS://a.org", "https://a.org"),
        ("https://a.org:443", "https://a.org"),
        ("http://a.org:80", "http://a.org"),
        ("http://a.org:8080/shop?x#y", "http://a.org:8080"),
        ("https://user:word@a.org", "https://a.org"),
    ],
)
def test_what_is_meant_is_named(text: str, instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_origin(text)
    assert caught.value.hint == f"pass `{instead}`"
    check_origin(instead)


@pytest.mark.parametrize(
    "text", ["*", "", "null", "a.org", "a.org:80", "https://", "http://a.org:x", "http://é.org", "http://a b", "://a"]
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(UsageError, match="is not the origin of a web page"):
        check_origin(text)
