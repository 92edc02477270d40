"""Bounds of a server, and the rejection of a request that exceeds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a server accepts.

    Attributes:
        body: Bytes of a request's body.
        bodies: Bytes of all bodies together, over HTTP and gRPC. A request that would exceed it is rejected with 503.
        pixels: Pixels of an image, from the size that its file declares.
        pixels_in_flight: Pixels of all images that are decoded and not answered yet, or that the shadow has. An image
            waits for room.
        queue: Images that wait for a worker. A request that would exceed it is rejected with 503.
        images: Images in one request.
        connections: Open connections.
        header_bytes: Bytes of a request's line and headers.
        header_seconds: Time in which they must arrive.
        body_seconds: Time in which the body must arrive, and in which a client must take an answer.
        idle_seconds: Time after which a connection without a request is closed.
        deadline: Seconds from the arrival of a request to its answer; a request that waits longer gets 504.
        accept: Optional image formats that are read, of `zoo.data.image_formats.OPTIONAL_NAMES`. Others get 415.
    """

    body: int = 16 * 2**20
    bodies: int = 256 * 2**20
    pixels: int = 50_000_000
    pixels_in_flight: int = 200_000_000
    queue: int = 64
    images: int = 32
    connections: int = 1000
    header_bytes: int = 64 * 2**10
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    deadline: float = 30.0
    accept: Sequence[str] = ()


@dataclass
class Rejection(Exception):
    """A request that is not answered with a prediction.

    Attributes:
        status: HTTP status.
        reason: What a metric calls the reason: a word or two.
        message: What is wrong, in one line without a full stop.
        hint: What to do. None: no hint.
        headers: Further headers of the answer.
    """

    status: int
    reason: str
    message: str
    hint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def no_memory() -> Rejection:
    """The rejection of a request for which there is not enough memory."""
    return Rejection(503, "memory", "there is not enough memory", "try again later", {"Retry-After": "1"})


def fault() -> Rejection:
    """The rejection of a request that met a fault in the server."""
    return Rejection(500, "internal", "a fault in the server")
