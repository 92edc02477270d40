"""Connections over real sockets: slow, greedy, leaving and pipelining clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import uvicorn
from hostile_images import encoded, photograph
from serving_support import StubPredictor, exchange, listening, post, read_all, read_answer, served, stub, until
from uvicorn.server import ServerState

from zoo.serving.bounds import Bounds
from zoo.serving.connection import bounded

JPEG = encoded(photograph())
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: server\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
Address = tuple[str, int]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served(body=2_000_000) as service, listening(service) as address:
        yield address


def status(answer: bytes) -> int:
    """The status of the only answer; it is JSON, and the connection was not reset."""
    assert answer.count(b"HTTP/1.1 ") == 1 and not answer.endswith(b"<reset>"), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    json.loads(body)
    return int(head.split()[1])


def test_half_sent_headers_are_closed_and_counted() -> None:
    with served(header_seconds=0.2) as service, listening(service) as address:
        assert status(exchange(address, LIVE[:-2])) == 408
        assert status(exchange(address, b"")) == 408
        assert status(exchange(address, b"P")) == 408
        with socket.create_connection(address, 60) as kept:
            kept.sendall(LIVE)
            assert read_answer(kept)[0] == 200
            kept.sendall(LIVE[:10])
            assert status(read_all(kept)) == 408
        assert b'reason="slow"} 4.0' in service.metrics.text()


def test_headers_that_come_byte_by_byte_have_a_deadline_too() -> None:
    with served(header_seconds=0.3) as service, listening(service) as address:
        with socket.create_connection(address, 60) as connection:
            found: list[bytes] = []
            reading = threading.Thread(target=lambda: found.append(read_all(connection)))
            reading.start()
            sent = 0
            while reading.is_alive():
                try:
                    connection.sendall(b"a" if sent > len(LIVE) - 3 else LIVE[sent : sent + 1])
                except OSError:
                    break
                sent += 1
                time.sleep(0.02)
            reading.join()
        assert b" 408 " in found[0]


def test_half_sent_bodies_are_closed() -> None:
    with served(body_seconds=0.2) as service, listening(service) as address:
        assert status(exchange(address, post("/predict", JPEG)[:-1])) == 408
        assert status(exchange(address, post("/predict", JPEG).partition(b"\xff\xd8")[0])) == 408
        chunked = b"POST /predict HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
        assert status(exchange(address, chunked)) == 408
        assert service.pool.queued == 0


def test_a_kept_connection_is_closed_when_it_is_idle() -> None:
    with (
        served(idle_seconds=1, header_seconds=0.2) as service,
        listening(service) as address,
        socket.create_connection(address, 60) as kept,
    ):
        kept.sendall(LIVE)
        assert read_answer(kept)[0] == 200
        assert read_all(kept) == b""


def test_headers_over_the_bound(address: Address) -> None:
    line = b"X-Long: " + b"a" * 200_000 + b"\r\n"
    assert status(exchange(address, LIVE[:-2] + line + b"\r\n")) == 431
    assert status(exchange(address, LIVE[:-2] + line)) == 431  # without an end
    assert status(exchange(address, b"GET /" + b"a" * 200_000)) == 431
    assert status(exchange(address, b"\r\n" * 100_000)) == 431
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(20_000))
    assert status(exchange(address, LIVE[:-2] + many + b"\r\n")) == 431


def test_headers_below_the_bound_and_a_body_that_begins_with_them(address: Address) -> None:
    line = b"X-Long: " + b"a" * 60_000 + b"\r\nConnection: close\r\n"
    assert status(exchange(address, LIVE[:-2] + line + b"\r\n")) == 200
    body = b"x" * 1_000_000
    request = post("/predict", body, "Connection: close")
    for cut in (10, len(request) - len(body) - 1, len(request) - len(body) - 3):
        assert status(exchange(address, request[:cut], request[cut:])) == 422


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: s\r\nX y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: s\r\n: 1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /predict HTTP/1.1\r\nContent-Length: -4\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nContent-Length: +4\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nContent-Length: 0x4\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT /predict HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda request_: repr(request_[:60]),
)
def test_what_is_no_http(address: Address, request_: bytes) -> None:
    assert status(exchange(address, request_)) in (400, 404)


def test_targets_that_are_no_plain_paths(address: Address) -> None:
    for target, wanted in (
        (b"http://other.example/v2/health/live", 200),
        (b"/v2/health/live#part", 200),
        (b"/v2/health/live?" + b"x" * 50_000, 200),
        (b"/../../etc/passwd", 404),
        (b"/v2/../../../etc/passwd", 404),
        (b"//etc/passwd", 404),
        (b"/%2e%2e/%2e%2e/etc/passwd", 404),
        (b"/v2/health/live%00", 404),
        (b"/%ff%fe", 404),
        (b"/v2/models/..", 404),
    ):
        assert status(exchange(address, LAST.replace(b"/v2/health/live", target))) == wanted, target


def test_expect_100_continue(address: Address) -> None:
    with socket.create_connection(address, 60) as connection:
        head, _, _ = post("/predict", JPEG, "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(JPEG)
        assert status(read_all(connection)) == 200
    with socket.create_connection(address, 60) as connection:  # it is told before it sends the body
        connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n")
        assert status(read_all(connection)) == 413


def chunks(body: bytes, size: int) -> bytes:
    head = b"POST /predict HTTP/1.1\r\nHost: s\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_a_chunked_body_without_a_length(address: Address) -> None:
    assert status(exchange(address, chunks(JPEG, 100))) == 200
    assert status(exchange(address, chunks(JPEG, 1))) == 200
    assert status(exchange(address, chunks(b"x" * 2_500_000, 100_000))) == 413


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_client_that_is_still_sending_can_read_its_413(address: Address, how: str) -> None:
    body = b"x" * 30_000_000
    request = post("/predict", body) if how == "length" else chunks(body, 1_000_000)
    assert status(exchange(address, request)) == 413


def test_a_client_that_is_still_sending_can_read_its_401() -> None:
    with served() as service, listening(service, token="secret") as address:
        assert status(exchange(address, post("/predict", b"x" * 10_000_000))) == 401


def test_connections_beyond_the_bound_are_told_so_and_others_go_on() -> None:
    with served(connections=20) as service, listening(service) as address:
        idle = [socket.create_connection(address, 60) for _ in range(20)]
        idle[0].sendall(LIVE)
        assert read_answer(idle[0])[0] == 200
        refused = [exchange(address, LIVE) for _ in range(5)]
        assert [status(one) for one in refused] == [503] * 5
        idle[0].sendall(LIVE)
        assert read_answer(idle[0])[0] == 200
        for one in idle:
            one.close()
        until(lambda: b" 200 " in exchange(address, LAST))
        assert b'zoo_rejected_total{reason="connections"}' in service.metrics.text()


def test_thousands_of_connections_leave_nothing_behind() -> None:
    with served(connections=50) as service, listening(service) as address:
        for _ in range(20):
            many = [socket.create_connection(address, 60) for _ in range(150)]
            for one in many:
                one.close()
        until(lambda: b" 200 " in exchange(address, LAST))


def test_a_client_that_leaves_is_taken_out_of_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    free, computed = threading.Event(), []

    def before(images: Any) -> None:
        computed.append(len(images))
        free.wait(60)

    with served(stub(StubPredictor(before)), workers=1) as service, listening(service) as address:
        first = socket.create_connection(address, 60)
        first.sendall(post("/predict", JPEG))
        until(lambda: computed)
        others = [socket.create_connection(address, 60) for _ in range(5)]
        for one in others:
            one.sendall(post("/predict", JPEG))
        until(lambda: service.pool.queued == 5)
        for one in others:
            one.close()
        until(lambda: service.pool.queued == 0)
        first.close()  # while its image is computed
        until(lambda: b'zoo_requests_total{code="499",route="predict"} 6.0' in service.metrics.text())
        free.set()
        assert status(exchange(address, post("/predict", JPEG, "Connection: close"))) == 200
        assert computed == [1, 1]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_client_that_leaves_within_its_body(address: Address) -> None:
    for cut in (10, 60, 200, -1):
        with socket.create_connection(address, 60) as connection:
            connection.sendall(post("/predict", JPEG)[:cut])
    assert status(exchange(address, LAST)) == 200


def test_pipelined_requests_are_answered_in_order(address: Address) -> None:
    dark, light = (encoded(photograph().point(lambda value, add=add: value // 4 + add)) for add in (0, 190))
    requests = [post("/predict", image) for image in (dark, light, light, dark, light)]
    with socket.create_connection(address, 60) as connection:
        connection.sendall(b"".join([*requests, LAST]))
        found = read_all(connection)
    assert re.findall(rb'"label": "(\w+)", "probability": [\d.e-]+, "top"', found) == [
        b"dark",
        b"light",
        b"light",
        b"dark",
        b"light",
    ]
    assert found.endswith(b'{"live": true}')


def answers(connection: socket.socket, *requests: bytes) -> list[int]:
    """The statuses of all answers that come until the server closes."""
    connection.sendall(b"".join(requests))
    whole = read_all(connection)
    assert not whole.endswith(b"<reset>")
    return [int(part.split()[0]) for part in whole.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (b"nonsense\r\n\r\n", 400),
        (LIVE[:-2] + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (post("/predict", b"x" * 3_000_000), 413),
    ],
    ids=["no http", "headers", "chunk", "body"],
)
def test_a_bad_request_does_not_spoil_the_good_ones_before_it(address: Address, last: bytes, wanted: int) -> None:
    for before in range(4):
        with socket.create_connection(address, 60) as connection:
            got = answers(connection, *[post("/predict", JPEG)] * before, last)
            assert got == [200] * before + [wanted]


def test_a_half_sent_request_does_not_spoil_a_slow_one_before_it() -> None:
    free = threading.Event()
    with (
        served(
            stub(StubPredictor(lambda images: free.wait(60) and None)), header_seconds=0.2, body_seconds=0.2
        ) as service,
        listening(service) as address,
    ):
        for last in (LIVE[:20], post("/predict", JPEG)[:-3]):
            free.clear()
            with socket.create_connection(address, 60) as connection:
                connection.sendall(post("/predict", JPEG) + last)
                time.sleep(0.6)
                free.set()
                assert answers(connection) == [200, 408]


def test_an_offer_of_http_2_is_ignored(address: Address) -> None:
    """Java's client makes one with every request, and uvicorn would lose the body."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")
    with socket.create_connection(address, 60) as connection:
        for _ in range(3):
            connection.sendall(post("/predict", JPEG, *offer))
            assert read_answer(connection)[0] == 200
        connection.sendall(LIVE[:-2] + "\r\n".join((*offer, "", "")).encode())
        assert read_answer(connection)[0] == 200
        request = post("/predict", JPEG, *offer)
        for place in range(0, len(request), 97):
            connection.sendall(request[place : place + 97])
            time.sleep(0.001)
        assert read_answer(connection)[0] == 200
    offered = LIVE[:-2] + "\r\n".join((*offer, "", "")).encode()
    with socket.create_connection(address, 60) as connection:
        assert answers(connection, *[offered] * 1500, LAST) == [200] * 1501
    websocket = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    with socket.create_connection(address, 60) as connection:
        connection.sendall(LIVE[:-2] + "\r\n".join((*websocket, "", "")).encode())
        assert read_answer(connection)[0] == 200


def test_a_client_that_never_reads_is_dropped() -> None:
    """uvicorn waits for ever until a client takes its answers."""

    async def wait() -> bool:
        connection = bounded(Bounds(body_seconds=0.05))(
            uvicorn.Config(lambda *given: None, log_config=None), ServerState(), {}
        )
        dropped = asyncio.Event()
        transport = SimpleNamespace(abort=dropped.set, get_extra_info=lambda name: None, is_closing=dropped.is_set)
        connection.connection_made(transport)  # type: ignore[arg-type]
        connection.pause_writing()
        connection.resume_writing()
        await asyncio.sleep(0.2)
        assert not dropped.is_set()  # it took them in the end
        connection.pause_writing()
        await asyncio.wait_for(dropped.wait(), 60)
        connection.connection_lost(OSError())
        return True

    assert asyncio.run(wait())


def test_http_1_0_and_many_methods(address: Address) -> None:
    assert status(exchange(address, b"GET /v2/health/live HTTP/1.0\r\n\r\n")) == 200
    head = exchange(address, LAST.replace(b"GET", b"HEAD"))
    assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")


def test_trailers_are_bounded_as_headers_are(address: Address) -> None:
    """Whatever follows a body in chunks is parsed like headers, and must not fill the memory either."""
    head = b"POST /predict HTTP/1.1\r\nHost: s\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = head + b"%x\r\n" % len(JPEG) + JPEG + b"\r\n0\r\n"
    assert status(exchange(address, body + b"a: b\r\n" * 10 + b"\r\n")) == 200
    assert status(exchange(address, body, *[b"a: b\r\n" * 1000] * 100)) == 431


@pytest.mark.parametrize(("named", "wanted"), [(("",), 200), (("Identity",), 200), (("identity", "gzip"), 415)])
def test_every_encoding_that_is_named_counts(address: Address, named: tuple[str, ...], wanted: int) -> None:
    headers = [f"Content-Encoding: {one}" for one in named]
    assert status(exchange(address, post("/predict", JPEG, "Connection: close", *headers))) == wanted


def test_what_a_client_sends_after_its_answer_is_read_and_dropped() -> None:
    """Else the client would wait with a full buffer until its connection is reset."""
    with (
        served() as service,
        listening(service, token="secret") as address,
        socket.create_connection(address, 60) as connection,
    ):
        connection.sendall(post("/predict", b"x" * 15_000_000))
        assert status(read_all(connection)) == 401
