"""A stand-in for S3 on loopback: the objects of one bucket, which fails in the ways that a store can.

It has what readers of class folders, tables and archives call: ListObjectsV2, HeadObject, and GetObject with ranges;
and PutObject, also with `If-None-Match: *`.
`benchmarks/object_store.py` runs the same checks against moto.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from s3fs import S3FileSystem

BUCKET = "bucket"


@dataclass
class Store:
    """The objects of a bucket, and what is wrong with it.

    Attributes:
        objects: Content by key.
        faults: How requests for a key fail: `denied`, `gone`, `cut`, `reset`, `silent`, `trickle`, `busy`, `full`. The
            key `""` is the bucket's listing, `*` any key.
        page: Keys in one answer to a listing.
        asked: Method and key of each request, in order.
        signed: Whether each request was signed.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    page: int = 1000
    asked: list[tuple[str, str]] = field(default_factory=list)
    signed: list[bool] = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.store.asked.append((self.command, key))
        self.store.signed.append("Authorization" in self.headers)
        fault = self.store.faults.get(key) or self.store.faults.get("*")
        if fault == "denied":
            self._error(403, "AccessDenied", "Access Denied")
        elif fault == "busy":
            self._error(503, "SlowDown", "Please reduce your request rate.")
        elif fault == "silent":
            self.store.over.wait(60)
            self.close_connection = True
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket", "The specified bucket does not exist")
        elif not key:
            self._list(
                {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}, fault
            )
        elif key not in self.store.objects or fault == "gone":
            self._error(404, "NoSuchKey", "The specified key does not exist.")
        else:
            self._object(self.store.objects[key], fault)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.store.asked.append((self.command, key))
        fault = self.store.faults.get(key) or self.store.faults.get("*")
        if fault == "denied":
            self._error(403, "AccessDenied", "Access Denied")
        elif fault == "full":
            self._error(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket", "The specified bucket does not exist")
        else:
            with self.store.lock:
                there = self.headers.get("If-None-Match") == "*" and key in self.store.objects
                if not there:
                    self.store.objects[key] = data
            if there:
                self._error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
            else:
                self._say(200, b"", {"ETag": f'"{_tag(data)}"'})

    def _list(self, asked: dict[str, str], fault: str | None) -> None:
        prefix, mark = asked.get("prefix", ""), asked.get("delimiter")
        after = asked.get("continuation-token", "")
        found: list[str] = []
        folders: dict[str, None] = {}
        for key in sorted(self.store.objects):
            if not key.startswith(prefix) or key <= after:
                continue
            below = key.removeprefix(prefix)
            if mark and mark in below:
                folders[prefix + below.partition(mark)[0] + mark] = None
            else:
                found.append(key)
        more = len(found) > self.store.page
        found = found[: self.store.page]
        text = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{_tag(self.store.objects[key])}"</ETag><Size>{len(self.store.objects[key])}</Size>'
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in found
        )
        text += "".join(f"<CommonPrefixes><Prefix>{escape(quote(each))}</Prefix></CommonPrefixes>" for each in folders)
        token = f"<NextContinuationToken>{escape(found[-1])}</NextContinuationToken>" if more else ""
        self._say(
            200,
            f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(quote(prefix))}</Prefix>'
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>{self.store.page}</MaxKeys><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{text}</ListBucketResult>".encode(),
            fault=fault,
        )

    def _object(self, data: bytes, fault: str | None) -> None:
        headers = {
            "ETag": f'"{_tag(data)}"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            "Accept-Ranges": "bytes",
        }
        wanted, code = self.headers.get("Range"), 200
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) if first and last else len(data) - 1, len(data) - 1)
            if start >= len(data):
                self._error(416, "InvalidRange", "The requested range is not satisfiable")
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, code = data[start : end + 1], 206
        self._say(code, data, headers, fault)

    def _error(self, code: int, name: str, message: str) -> None:
        self._say(code, f'<?xml version="1.0"?><Error><Code>{name}</Code><Message>{message}</Message></Error>'.encode())

    def _say(self, code: int, body: bytes, headers: dict[str, str] | None = None, fault: str | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {"Content-Type": "application/xml"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("cut", "reset"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == "reset":  # closed without waiting: the other side is told so
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_WR)
        elif fault == "trickle":
            for place in range(len(body)):
                if self.store.over.wait(0.05):
                    break
                self.wfile.write(body[place : place + 1])
                self.wfile.flush()
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _tag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


SECRET = "wJalrXUtnFEMI-secret"


def credentials(patch: pytest.MonkeyPatch, place: Path, *, secret: str | None = SECRET) -> None:
    """Set the credentials of S3, and hide those of the machine; None: there are none."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        patch.setenv(f"AWS_{name}", str(place / "none"))
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if secret is not None:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)


@contextmanager
def running(patch: pytest.MonkeyPatch, place: Path) -> Iterator[Store]:
    """A running stand-in, which S3 is taken for; its address is `url`."""
    store = Store()
    S3FileSystem.clear_instance_cache()  # which would go on with the address of another test
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are expected
    credentials(patch, place)
    store.url = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("AWS_ENDPOINT_URL", store.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        store.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
