"""Files behind URLs: http and https by the standard library, all others by fsspec (extra `remote`)."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from zoo import UsageError, ZooError
from zoo.data.data_argument import is_url
from zoo.dataset import BytesSource
from zoo.errors import quoted
from zoo.storage.paths import user_path
from zoo_datasets.member_tree import MemberTree

TIMEOUT = 30.0  # seconds without a byte
LARGEST = 1 << 30  # bytes of one file: an image or a table, not a disk


def remote_source(url: str) -> BytesSource:
    """The source of an image behind a URL. It is read when the image is needed, each time anew."""
    return BytesSource(url, lambda: read_url(url))


def read_file(name: str) -> bytes:
    """The bytes of a path or URL.

    Raises:
        ZooError: it cannot be read.
    """
    try:
        return read_url(name) if is_url(name) else user_path(name).read_bytes()
    except OSError as error:
        what = error.strerror or str(error)
        raise ZooError(f"`{name}` cannot be read: {what}") from error


def read_url(url: str) -> bytes:
    """The bytes behind a URL.

    Raises:
        OSError: it answers with an error, too slowly or in part; the text says which.
        ZooError: the library for its protocol is not installed.
    """
    if url.startswith(("http://", "https://")):
        return _read_http(url)
    system, path = file_system(url)
    return read_object(system, path)


def _read_http(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # the protocol is checked by the caller
            length = answer.length  # None where the server does not say it
            data: bytes = answer.read(LARGEST)
            if length is not None and len(data) < min(length, LARGEST):
                raise OSError(f"the server ended after {len(data):,} bytes, {length - len(data):,} too early")
            if answer.read(1):
                raise OSError(f"is larger than {LARGEST:,} bytes")
            return data
    except urllib.error.HTTPError as error:
        raise OSError(f"the server answers {error.code} {error.reason}") from error
    except http.client.IncompleteRead as error:
        raise OSError(
            f"the server ended after {len(error.partial):,} bytes, {error.expected or 0:,} too early"
        ) from error
    except TimeoutError as error:
        raise OSError(f"the server sent nothing for {TIMEOUT:.0f} s") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError)
        raise OSError(f"the server sent nothing for {TIMEOUT:.0f} s" if late else quoted(reason)) from error


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        ZooError: fsspec, or its part for the protocol, is not installed.
        UsageError: it knows no such protocol.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ZooError(f"`{url}` cannot be read: {quoted(error)}", hint="`pip install backbone-zoo[remote]`") from error
    except ValueError as error:
        raise UsageError(f"`{url}` cannot be read: {quoted(error)}") from error


def remote_tree(url: str) -> MemberTree:
    """The files below a URL such as `s3://bucket/photos`; each is read when it is needed.

    Raises:
        UsageError: there is nothing, or its protocol lists no files.
        ZooError: it cannot be listed, or fsspec is not installed.
    """
    if url.startswith(("http://", "https://")):
        raise UsageError(f"`{url}` lists no files", hint="name them in a table: `csv:labels.csv`, or download a zip")
    system, path = file_system(url)
    try:
        found = system.find(path)
    except Exception as error:  # of the protocol's library
        what = f"{type(error).__name__}: {quoted(error)}"
        raise ZooError(f"`{url}` cannot be listed: {what}", hint="check the address and your credentials") from error
    base = path.rstrip("/") + "/"
    names = [(name.removeprefix(base), name) for name in found if name.startswith(base) and name != base]
    if not names:
        raise UsageError(f"there is nothing at `{url}`", hint="check the address")
    return MemberTree(url.rstrip("/"), names, lambda name: read_object(system, str(name)))


def read_object(system: Any, path: str) -> bytes:
    """The bytes of an object of an fsspec file system.

    Raises:
        OSError: it cannot be read, for whatever reason.
    """
    try:
        data: bytes = system.cat_file(path)
        return data
    except OSError as error:
        raise OSError(error.strerror or quoted(error) or type(error).__name__) from error
    except Exception as error:  # of the protocol's library
        raise OSError(f"{type(error).__name__}: {quoted(error)}") from error
