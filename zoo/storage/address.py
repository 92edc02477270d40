"""Addresses (URLs), and what of them must not be recorded or shown."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping

# Parts of a query that let whoever has the address in
_SECRETS = (
    *("signature", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy", "expires", "sig"),
    *("token", "access_token", "auth", "api_key", "apikey", "password"),
)
_OF_AZURE = ("se", "sp", "sv", "sr", "st", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv")

# The bound keeps the time linear, also for a text of 100,000 letters. Of a longer scheme the end is enough
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s,\"'`<>]+")

# Names of environment variables that hold a secret, and the least length of one that a text is searched for
_SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET)$", re.IGNORECASE)
_SECRET_LENGTH = 8
_NO_PORT = re.compile(r"^[^\[\]:]*:(?!\d*$)")  # of a host
# Before the host, also where a password has characters that end an address
_LOGIN = re.compile(r"(://)[^/\s]*@")


def is_url(text: str) -> bool:
    """Whether a text is a URL such as `s3://bucket/photos`, not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def address_parts(url: str) -> urllib.parse.SplitResult:
    """The parts of a URL; of one that is not valid, with the characters encoded that no host has."""
    try:
        return urllib.parse.urlsplit(url)
    except ValueError:  # a bracket that is no IPv6 address, or a letter that stands for one that ends the host
        return urllib.parse.urlsplit(urllib.parse.quote(url, safe="%/:=&?~+!$,;'@()*#"))


def without_secret(url: str) -> str:
    """A URL as messages and records name it: without a user's name and password, and without a signature.

    What a query says besides, such as `id=5`, stays: it may be all that tells two images apart.
    """
    if not is_url(url) or not ("@" in url or "?" in url):
        return url
    parts = address_parts(url)
    if "@" in url and _NO_PORT.search(parts.netloc.rpartition("@")[2]):  # the password ends the host, as with a slash
        return without_secret(f"{parts.scheme}://{url.rpartition('@')[2]}")
    asked = [part for part in parts.query.split("&") if part]
    names = {part.partition("=")[0].lower() for part in asked}
    secret = {*_SECRETS, *(_OF_AZURE if "sig" in names else ())}
    kept = [
        part
        for part in asked
        if not (name := part.partition("=")[0].lower()).startswith(("x-amz-", "x-goog-")) and name not in secret
    ]
    host = parts.netloc.rpartition("@")[2]
    if host == parts.netloc and kept == asked:
        return url
    plain = parts._replace(netloc=host, query="&".join(kept)).geturl()
    return plain if host else f"{parts.scheme}://{plain.partition(':')[2].removeprefix('//')}"


def addresses_in(text: str) -> list[str]:
    """The addresses in a text."""
    return _ADDRESS.findall(text)


def without_logins(text: str) -> str:
    """A text whose addresses have no secret: no user's name and password, no token and no signature."""
    return _ADDRESS.sub(lambda found: without_secret(found[0]), _LOGIN.sub(r"\1", text))


def without_secrets(text: str, environ: Mapping[str, str] | None = None) -> str:
    """A text, such as another library's message, without secrets: those of addresses, and of environment variables.

    Args:
        text: The text.
        environ: Environment variables. None: those of the process.
    """
    text = without_logins(text)
    for name, value in (os.environ if environ is None else environ).items():
        if _SECRET_NAME.search(name) and len(value) >= _SECRET_LENGTH:
            text = text.replace(value, "***")
    return text
