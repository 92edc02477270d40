"""Files behind URLs: http and https by the standard library, all others by fsspec (extra `remote`)."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from zoo import UsageError, ZooError
from zoo.data.data_argument import is_url, without_secret
from zoo.dataset import BytesSource
from zoo.errors import quoted
from zoo.storage.paths import user_path
from zoo_datasets.member_tree import MemberTree
from zoo_datasets.reachability import Reachability, Unsteady

TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 60.0  # seconds for one object as a whole: an image of 6 MB at 100 kB/s
TRIES = 3  # of http; fsspec's file systems try again by themselves
FIRST_WAIT = 0.3  # seconds before the second try, doubled before each further one
LARGEST = 1 << 30  # bytes of one file: an image or a table, not a disk
PIECE = 1 << 20
MAY_WORK_LATER = (429, 500, 502, 503, 504)  # answers that are no refusal

# botocore and s3fs each repeat what fails: by their own defaults, a silent store is waited for six minutes
S3_SETTINGS = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 1}}
S3_TRIES = 4

# Errors of libraries that are not imported here, by the names of their types
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_NOT_REACHED = {"HTTPClientError", "ClientError", "ConnectionError", "EndpointConnectionError"}
_CUT = {"ClientPayloadError", "IncompleteReadError", "IncompleteRead"}

CREDENTIALS = (
    "credentials of S3 come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `AWS_PROFILE`; "
    "`FSSPEC_S3_ANON=true` reads a public bucket without any"
)


def remote_source(url: str, reach: Reachability) -> BytesSource:
    """The source of an image behind a URL. It is read when the image is needed, each time anew.

    Args:
        url: Its address.
        reach: Counts the failures of this source and of others of the same data.
    """
    return BytesSource(without_secret(url), lambda: _observed(url, reach, lambda: read_url(url)))


def read_file(name: str) -> bytes:
    """The bytes of a path or URL, such as a table's.

    Raises:
        ZooError: it cannot be read.
    """
    try:
        return read_url(name) if is_url(name) else user_path(name).read_bytes()
    except OSError as error:
        what = error.strerror or str(error)
        hint = _advice(error.__cause__ or error) if is_url(name) else None
        raise ZooError(f"`{name}` cannot be read: {what}", hint=hint) from error


def read_url(url: str) -> bytes:
    """The bytes behind a URL.

    Raises:
        FileNotFoundError: there is nothing.
        Unsteady: it answers too slowly, in part or not at all.
        OSError: it is refused; the text says why.
        ZooError: the library for its protocol is not installed.
    """
    if url.startswith(("http://", "https://")):
        return _read_http(url)
    system, path = file_system(url)
    return read_object(system, path)


def _observed(url: str, reach: Reachability, read: Callable[[], bytes]) -> bytes:
    """Read, and note whether the place answers.

    Raises:
        Unreachable: it answers no more.
        OSError: as `read_url`.
    """
    reach.check(url)
    try:
        data = read()
    except Unsteady as error:
        reach.failed(url, str(error))
        raise
    except OSError:
        reach.answered(url)
        raise
    reach.answered(url)
    return data


def _read_http(url: str) -> bytes:
    until = monotonic() + PATIENCE
    wait = FIRST_WAIT
    for left in reversed(range(TRIES)):
        try:
            return _read_once(url, until)
        except Unsteady:
            if not left or monotonic() + wait > until:
                raise
        sleep(wait)
        wait *= 2
    raise AssertionError


def _read_once(url: str, until: float) -> bytes:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise OSError("it is no valid address") from error
    if "@" in parts.netloc:
        raise OSError("its address holds a user's name or password, which is not sent")
    # spaces and letters of other scripts, as people write them, are sent as the standard (RFC 3986) asks
    address = urllib.parse.quote(parts._replace(fragment="").geturl(), safe="%/:=&?~+!$,;'@()*[]")
    request = urllib.request.Request(address, headers={"User-Agent": "backbone-zoo"})  # many refuse Python's own
    found = bytearray()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # the protocol is checked by the caller
            length = answer.length  # None where the server does not say it
            while piece := answer.read1(PIECE):
                found += piece
                if len(found) > LARGEST:
                    raise OSError(f"is larger than {LARGEST:,} bytes")
                if monotonic() > until:
                    raise Unsteady(f"the server sent {len(found):,} bytes in {PATIENCE:.0f} s, and not all of it")
            if length is not None and len(found) < length:
                raise Unsteady(f"the server ended after {len(found):,} bytes, {length - len(found):,} too early")
            return bytes(found)
    except urllib.error.HTTPError as error:
        error.close()
        kind = Unsteady if error.code in MAY_WORK_LATER else FileNotFoundError if error.code in (404, 410) else OSError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise Unsteady(f"the server sent nothing for {TIMEOUT:.0f} s") from error
    except http.client.InvalidURL as error:
        raise OSError("it is no valid address") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError)
        text = str(getattr(reason, "strerror", None) or quoted(reason) or type(reason).__name__)
        raise Unsteady(f"the server sent nothing for {TIMEOUT:.0f} s" if late else _sentence(text)) from error
    except ValueError as error:
        raise OSError("it is no valid address") from error


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        ZooError: fsspec, or its part for the protocol, is not installed.
        UsageError: it knows no such protocol.
    """
    name = without_secret(url)
    try:
        import fsspec

        options: dict[str, Any] = {}
        is_s3 = url.startswith(("s3://", "s3a://"))
        if is_s3 and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
            options["config_kwargs"] = S3_SETTINGS
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        hint = "`pip install backbone-zoo[remote]`" if url.startswith("s3") or error.name == "fsspec" else None
        hint = hint or "stores other than S3 need a package of their own"
        raise ZooError(f"`{name}` cannot be read: {_sentence(quoted(error))}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"`{name}` cannot be read: {_sentence(quoted(error))}") from error
    if is_s3 and options:
        system.retries = S3_TRIES  # of this instance, which other programs do not get: their settings are others
    return system, path


def remote_tree(url: str) -> MemberTree:
    """The files below a URL such as `s3://bucket/photos`; each is read when it is needed.

    Raises:
        UsageError: there is nothing, it is one object, or its protocol lists no files.
        ZooError: it cannot be listed, or fsspec is not installed.
    """
    if url.startswith(("http://", "https://")):
        raise UsageError(f"`{url}` lists no files", hint="name them in a table: `csv:labels.csv`, or download a zip")
    system, path = file_system(url)
    if not path.strip("/") and url.startswith("s3"):
        raise UsageError(f"`{url}` names no bucket", hint="such as `s3://bucket/photos`")
    try:
        system.invalidate_cache()  # else a process that listed it before would not see what is new
        found = system.find(path)
    except Exception as error:  # of the protocol's library
        kind, what = _told(error)
        if kind is FileNotFoundError:
            raise UsageError(f"there is nothing at `{url}`: {what}", hint="check the address") from error
        raise ZooError(f"`{url}` cannot be listed: {what}", hint=_advice(error)) from error
    base = path.rstrip("/") + "/"
    if path in found:
        raise UsageError(f"`{url}` is one object, not a folder", hint="a table is read by `csv:`, a list by `list:`")
    # a name that ends with a slash is an empty object that a browser of buckets made for a folder
    names = [(name.removeprefix(base), name) for name in found if name.startswith(base) and not name.endswith("/")]
    if not names:
        raise UsageError(f"there is nothing at `{url}`", hint="check the address")
    reach = Reachability()
    reach.answered(url)
    return MemberTree(
        url.rstrip("/"), names, lambda name: _observed(url, reach, lambda: read_object(system, str(name)))
    )


def read_object(system: Any, path: str) -> bytes:
    """The bytes of an object of an fsspec file system.

    Raises:
        FileNotFoundError: there is none.
        Unsteady: the store answers too slowly, in part or not at all.
        OSError: it cannot be read, for another reason.
    """
    options = {"timeout": PATIENCE} if getattr(system, "async_impl", False) else {}
    try:
        data: bytes = system.cat_file(path, **options)
        return data
    except Exception as error:  # of the protocol's library
        kind, what = _told(error)
        raise kind(what) from error


def _told(error: BaseException) -> tuple[type[OSError], str]:
    """What kind of failure of a store an error is, and its text: the end of a sentence."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = _sentence(str(getattr(error, "strerror", None) or "") or quoted(error) or type(error).__name__)
    if names & _NO_CREDENTIALS:
        return OSError, "there are no credentials for it"
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError, text if " " in text else "there is no such object"
    if isinstance(error, PermissionError):
        # credentials that end while images are read concern all that are left
        return (Unsteady if "expired" in text.lower() else OSError), f"the store refuses it: {text}"
    if names & _CUT or "payload is not completed" in text:
        return Unsteady, "the store ended too early"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return Unsteady, "the store did not send it in time"
    if (
        names & _NOT_REACHED
        or isinstance(error, (ConnectionError, BlockingIOError))
        or getattr(error, "errno", 0) == 16
    ):
        return Unsteady, text
    return OSError, text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def _advice(error: BaseException) -> str:
    """How a failure of a store may be mended."""
    if {kind.__name__ for kind in type(error).__mro__} & _NO_CREDENTIALS or isinstance(error, PermissionError):
        return CREDENTIALS
    return "check the address and the network"


def _sentence(text: str) -> str:
    """A text of another library without its full stop, and without queries of addresses, which may hold secrets."""
    return re.sub(r"\?[^\s\"'`]*", "", text).rstrip(".")
