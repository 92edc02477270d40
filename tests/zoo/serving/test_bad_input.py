"""Bad input to the server: each is answered with its status and one line, and costs little."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import hostile_images as hostile
from hostile_images import encoded, photograph
from PIL import Image
from serving_support import Client, StubPredictor, served, stub, until

JPEG = encoded(photograph())
INFER = "/v2/models/model/infer"


@pytest.fixture(scope="module")
def client() -> Any:
    with served() as service:
        yield Client(service)


def told(answer: Any, status: int, *words: str) -> None:
    """The answer has the status and says all the words in one line of JSON."""
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said.keys() <= {"error", "hint"} and "\n" not in said["error"] and len(answer.text) < 1000
    for word in words:
        assert word in said["error"] + said.get("hint", ""), said


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, ["empty"]),
        (b"hello, this is no image", 422, ["cannot be read"]),
        (b"%PDF-1.7\n%\xe2\xe3", 422, ["PDF"]),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, ["SVG"]),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", 422, ["HTML"]),
        (b'{"image": "..."}', 422, ["JSON"]),
        (b"PK\x03\x04" + b"\0" * 40, 422, ["zip"]),
        (gzip.compress(JPEG, mtime=0), 422, ["gzip"]),
        (encoded(photograph(), "GIF"), 415, ["GIF"]),
        (b"SIMPLE  =                    T" + b" " * 50, 415, ["FITS"]),
        (encoded(photograph(16, 16), "ICO"), 415, ["ICO"]),
        (encoded(photograph(), "JPEG2000"), 415, ["JPEG 2000"]),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, 415, ["HEIC"]),
        (b"\0\0\0\x18ftypavif" + b"\0" * 40, 415, ["AVIF"]),
        (b"\0\0\0\x0cJXL \r\n" + b"\0" * 40, 415, ["JPEG XL"]),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, 415, ["DICOM"]),
        (b"8BPS\0\1" + b"\0" * 40, 415, ["Photoshop"]),
        (encoded(photograph(), "PPM"), 422, ["cannot be read"]),
        (encoded(photograph(), "TGA"), 415, ["TGA"]),
        (JPEG[: len(JPEG) // 2], 422, ["cannot be decoded"]),
        (encoded(photograph(), "PNG")[:200], 422, ["cannot be decoded"]),
        (b"\xff\xd8", 422, []),
        (b"\xff\xd8\xff", 422, []),
        (b"\xff" * 1000, 422, []),
        (hostile.PNG, 422, []),
        (b"II*\0", 422, []),
        (b"II*\0\xff\xff\xff\xff", 422, []),
        (b"RIFF\0\0\0\0WEBP", 422, []),
        (b"BM" + b"\0" * 60, 422, []),
    ],
    ids=lambda given: repr(given[:12]) if isinstance(given, bytes) else "",
)
def test_what_is_no_image_is_named(client: Client, body: bytes, status: int, words: list[str]) -> None:
    told(client.predict(body), status, *words)
    in_json = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(body).decode()]}]
    }
    told(client("POST", INFER, json=in_json), status, *words)


def test_formats_that_are_not_accepted_are_never_opened(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("every format of Pillow was tried")

    monkeypatch.setattr(Image, "open", opened)
    for kind in ("PPM", "SGI", "PCX", "DDS"):
        told(client.predict(encoded(photograph(), kind)), 422, "cannot be read")
    told(client.predict(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600), 422)


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "Multipart/Form-Data", "multipart/mixed"])
def test_a_form_gets_the_command_that_works(client: Client, kind: str) -> None:
    told(client.predict(JPEG, headers={"content-type": kind}), 415, "curl --data-binary @photo.jpg")


@pytest.mark.parametrize("kind", ["image/png", "text/html", "application/x-www-form-urlencoded", "nonsense", ""])
def test_the_bytes_decide_and_not_the_content_type(client: Client, kind: str) -> None:
    assert client.predict(JPEG, headers={"content-type": kind}).status_code == 200


def test_a_body_over_the_bound_is_refused_by_its_length_and_while_it_comes() -> None:
    with served(body=1000) as service:
        client = Client(service)
        told(client.predict(b"x" * 1001), 413, "1,000 bytes")
        read = 0

        async def endless() -> Any:
            nonlocal read
            while True:
                read += 100
                yield b"x" * 100

        told(client("POST", "/predict", content=endless()), 413, "1,000 bytes")
        assert read < 2000
        told(client("POST", "/predict", headers={"content-length": "9" * 5000}), 413)


def test_all_bodies_together_are_bounded_and_given_back() -> None:
    with served(bodies=len(JPEG)) as service:
        client = Client(service)
        answer = client.predict(JPEG + b"more")
        told(answer, 503, "being received")
        assert int(answer.headers["retry-after"]) >= 1
        for _ in range(3):
            assert client.predict(JPEG).status_code == 200
            told(client.predict(b"no image"), 422)


def test_a_body_in_an_encoding_is_not_unpacked(client: Client) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000, mtime=0)
    told(client.predict(bomb, headers={"content-encoding": "gzip"}), 415, "gzip")
    told(client.predict(JPEG, headers={"content-encoding": "x" * 500}), 415)
    told(client.predict(bomb), 422, "gzip")


def test_a_png_bomb_costs_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = hostile.png_bomb()
    assert len(bomb) < 50_000
    refuse_to_decode(monkeypatch)
    told(client.predict(bomb), 413, "289,000,000", "50,000,000")


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        (hostile.webp_with_canvas(16_384, 16_384), 413, ["268,435,456"]),
        (hostile.tiff_with_huge_tile(), 413, ["tiles"]),
        (hostile.tiff(t256=(4, 1, 60_000), t257=(4, 1, 60_000)), 413, ["3,600,000,000"]),
        (hostile.tiff(t273=(4, 3_000_000, 8)), 422, ["strips"]),
        (hostile.tags(5000, 90_000, 100_000), 422, ["tags"]),
        (hostile.jpeg_with_exif(hostile.tags(3000, 60_000, 62_000)), 422, ["EXIF"]),
        (hostile.png(1, 1, hostile.png_chunk(b"eXIf", hostile.tags(3000, 60_000, 62_000))), 422, ["EXIF"]),
        (hostile.jpeg_of_many_scans(200), 422, ["scans"]),
        (hostile.png_of_many_chunks(100_000), 422, ["chunks"]),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000 + JPEG[2:], 422, ["segments"]),
    ],
    ids=["webp canvas", "tiff tile", "tiff size", "strips", "tags", "exif", "png exif", "scans", "chunks", "segments"],
)
def test_costly_images_are_not_decoded(
    client: Client, monkeypatch: pytest.MonkeyPatch, image: bytes, status: int, words: list[str]
) -> None:
    refuse_to_decode(monkeypatch)
    told(client.predict(image), status, *words)


@pytest.mark.parametrize(
    "image",
    [
        hostile.jpeg_of_many_scans(20),
        hostile.jpeg_with_comments(15_000_000),
        hostile.png_of_many_chunks(1000),
        hostile.tiff(),
        hostile.tiff_with_loop(),
        hostile.webp_with_canvas(64, 64),
        hostile.jpeg_with_exif(hostile.tags(20, 100, 5000)),
    ],
    ids=["scans", "comments", "chunks", "tiff", "loop", "canvas", "exif"],
)
def test_unusual_images_are_read(client: Client, image: bytes) -> None:
    answer = client.predict(image)
    assert answer.status_code == 200 and len(answer.content) < 1000, answer.text


def test_pages_and_frames_are_said(client: Client) -> None:
    pages = [photograph(seed=number) for number in range(3)]
    for kind, options in (("TIFF", {}), ("WEBP", {"lossless": True}), ("MPO", {}), ("PNG", {})):
        image = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
        assert client.predict(image).json()["frames"] == 3, kind
    assert "frames" not in client.predict(hostile.tiff_with_loop()).json()
    many = encoded(pages[0], "TIFF", save_all=True, append_images=[photograph(2, 2, number) for number in range(150)])
    assert client.predict(many).json()["frames"] == 100


def test_a_repair_is_said_and_a_truncated_jpeg_is_not_decoded_five_times(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "lacks its last bytes" in client.predict(JPEG[:-2]).json()["remarks"][0]
    decoded = []
    load = Image.Image.tobytes
    from PIL import ImageFile

    begin = ImageFile.ImageFile.load

    def counted(self: Any) -> Any:
        decoded.append(self.size) if self.tile else None
        return begin(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    told(client.predict(JPEG[: len(JPEG) // 2]), 422)
    assert len(decoded) <= 3 and load is Image.Image.tobytes


def ask(client: Client, tensor: Any = None, **request: Any) -> Any:
    return client("POST", INFER, json={"inputs": [tensor], **request} if tensor is not None else request)


def pixels(**changed: Any) -> dict[str, Any]:
    given = {"name": "photographs", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [7] * 12, **changed}
    return {name: value for name, value in given.items() if value is not ...}


def test_the_tensor_of_these_tests_is_good(client: Client) -> None:
    assert ask(client, pixels()).status_code == 200


@pytest.mark.parametrize("value", [999, -1, 1.5, True, "1", None, [], {}, 10**400])
def test_a_value_that_is_no_byte(client: Client, value: Any) -> None:
    told(ask(client, pixels(data=[value] + [7] * 11)), 400)
    told(ask(client, pixels(data=[7] * 11 + [value])), 400)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "-0.0", "01", "0x1"])
def test_a_number_that_is_not_json_or_too_large(client: Client, text: str) -> None:
    body = json.dumps({"inputs": [pixels()]}).replace("[7, 7", f"[{text}, 7")
    told(client("POST", INFER, content=body), 400)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "pixels"},
        {"name": "x" * 10_000},
        {"name": None},
        {"name": ...},
        {"datatype": "FP32"},
        {"datatype": 7},
        {"datatype": ...},
        {"shape": ...},
        {"shape": "1,2,2,3"},
        {"shape": []},
        {"shape": [2, 2, 3]},
        {"shape": [1, 2, 2, 3, 1]},
        {"shape": [1] * 100_000},
        {"shape": [1, 2, 2, 4]},
        {"shape": [1, 0, 0, 3], "data": []},
        {"shape": [0, 2, 2, 3], "data": []},
        {"shape": [-1, 2, 2, 3]},
        {"shape": [1, -2, -2, 3]},
        {"shape": [1, 2.0, 2, 3]},
        {"shape": [True, 2, 2, 3]},
        {"shape": [1, 2**31, 2**31, 3]},
        {"shape": [1, 10**4000, 1, 3]},
        {"shape": [1000, 2, 2, 3]},
        {"data": ...},
        {"data": None},
        {"data": 7},
        {"data": [7] * 11},
        {"data": [7] * 13},
        {"data": [[7] * 6, 7]},
        {"data": [[[[[[[[[[[7] * 12]]]]]]]]]]},
        {"parameters": []},
        {"parameters": {"binary_data_size": 12}},
        {"parameters": {"shared_memory_region": "r"}},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_malformed_tensor(client: Client, changed: dict[str, Any]) -> None:
    told(ask(client, pixels(**changed)), 400)


def test_a_tensor_over_a_bound_is_refused_before_anything_is_allocated(client: Client) -> None:
    told(ask(client, pixels(shape=[1, 20_000, 20_000, 3])), 413, "400,000,000")
    told(ask(client, pixels(shape=[32, 5_000, 5_000, 3])), 413, "bytes")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"7", b"\xff\xfe", b"{}", b'{"inputs": {}}', b'{"inputs": []}',
     b'{"inputs": [7]}',
     b"[" * 100_000, b'{"a":' * 50_000, b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}"],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_what_is_no_request(client: Client, body: bytes) -> None:
    told(client("POST", INFER, content=body), 400)


@pytest.mark.parametrize(
    "request_",
    [
        {"id": 7},
        {"parameters": []},
        {"parameters": {"binary_data_output": "yes"}},
        {"outputs": {}},
        {"outputs": [{}]},
        {"outputs": ["label"]},
        {"outputs": [{"name": "features"}]},
        {"outputs": [{"name": "label"}] * 17},
        {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
        {"outputs": [{"name": "logits", "parameters": {"classification": 1.5}}]},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]},
    ],
    ids=str,
)
def test_a_malformed_request_around_a_good_tensor(client: Client, request_: dict[str, Any]) -> None:
    told(ask(client, pixels(), **request_), 400)


def binary(header: dict[str, Any], data: bytes, length: str | None = None) -> dict[str, Any]:
    text = json.dumps(header).encode()
    return {"content": text + data, "headers": {"Inference-Header-Content-Length": length or str(len(text))}}


@pytest.mark.parametrize(
    ("size", "data", "length"),
    [
        (12, b"\7" * 11, None),
        (12, b"\7" * 13, None),
        (11, b"\7" * 11, None),
        (13, b"\7" * 13, None),
        (-1, b"\7" * 12, None),
        (True, b"\7", None),
        (12.0, b"\7" * 12, None),
        ("12", b"\7" * 12, None),
        (12, b"\7" * 12, "100000"),
        (12, b"\7" * 12, "-1"),
        (12, b"\7" * 12, "1.5"),
        (12, b"\7" * 12, "9" * 5000),
        (12, b"\7" * 12, "\u00b2"),
        (12, b"\7" * 12, "0"),
        (12, b"\7" * 12, "3"),
    ],
)
def test_binary_values_of_another_length(client: Client, size: Any, data: bytes, length: str | None) -> None:
    request = binary({"inputs": [pixels(data=..., parameters={"binary_data_size": size})]}, data)
    if length is not None:
        request["headers"] = {"Inference-Header-Content-Length": length.encode("latin-1")}
    told(client("POST", INFER, **request), 400)


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (1, b""),
        (1, b"\1\0\0"),
        (1, struct.pack("<I", 2**32 - 1) + b"x"),
        (2, struct.pack("<I", len(JPEG)) + JPEG),
        (1, struct.pack("<I", 0) * 2),
    ],
)
def test_binary_images_of_another_length(client: Client, count: int, data: bytes) -> None:
    tensor = {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    told(client("POST", INFER, **binary({"inputs": [tensor]}, data)), 400)


def test_base64_that_is_none(client: Client) -> None:
    for value in ("not base64!", "YQ", 7, None, "\u00e9"):
        told(ask(client, {"name": "image", "shape": [1], "datatype": "BYTES", "data": [value]}), 400)


def test_more_images_than_a_request_may_have_and_than_may_ever_wait(client: Client) -> None:
    images = [base64.b64encode(JPEG).decode()] * 33
    told(ask(client, {"name": "image", "shape": [33], "datatype": "BYTES", "data": images}), 400, "32")
    with served(queue=0, workers=1) as service:
        told(ask(Client(service), {"name": "image", "shape": [2], "datatype": "BYTES", "data": images[:2]}), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("GET", "/%00", 404),
        ("POST", "/predict%00", 404),
        ("POST", "/predict/", 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/" + "x" * 5000, 404),
        ("GET", "/v2/models/model/versions/2", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/repository/models/model/load", 404),
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("DELETE", "/v2/models/model", 405),
        ("GET", "/v2/models/model/infer", 405),
        ("POST", "/metrics", 405),
        ("OPTIONS", "/predict", 405),
        ("TRACE", "/", 405),
        ("BREW", "/predict", 405),
        ("POST", "/predict?model=other", 404),
        ("POST", "/predict?top=0", 400),
        ("POST", "/predict?top=3", 400),
        ("POST", "/predict?top=-1", 400),
        ("POST", "/predict?top=1.5", 400),
        ("POST", "/predict?top=", 400),
        ("POST", "/predict?top=" + "1" * 5000, 400),
        ("POST", "/predict?top=0000000010", 400),
        ("POST", "/predict?top=%C2%B2", 400),
    ],
)
def test_paths_methods_and_queries(client: Client, method: str, path: str, status: int) -> None:
    told(client(method, path, content=JPEG if method == "POST" else b""), status)


def test_a_huge_query_is_ignored(client: Client) -> None:
    assert client.predict(JPEG, params={f"x{index}": "y" for index in range(5000)}).status_code == 200


def test_head_is_answered_as_get_without_a_body(client: Client) -> None:
    for path in ("/v2/health/live", "/v2", "/v2/models/model", "/metrics"):
        assert client("HEAD", path).status_code == client("GET", path).status_code == 200


def test_health_answers_while_much_json_is_read(client: Client) -> None:
    body = json.dumps({"inputs": [pixels(shape=[1, 1000, 500, 3], data=[7] * 1_500_000)]}).encode()
    assert len(body) > 4_000_000
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client("POST", INFER, content=body)))
    asking.start()
    alive = 0
    while asking.is_alive():
        assert client("GET", "/v2/health/live").status_code == 200
        alive += 1
    assert answers[0].status_code == 200 and alive > 0


# access


def test_a_token_is_needed_everywhere_but_for_health() -> None:
    with served() as service:
        client = Client(service, token="secret")
        for path in ("/metrics", "/models", "/v2", "/v2/models/model", "/openapi.json", "/nothing"):
            answer = client("GET", path)
            told(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
        told(client.predict(JPEG), 401)
        for path in ("/", "/v2/health/live", "/v2/health/ready"):  # the page holds nothing of the models
            assert client("GET", path).status_code == 200
        for given in (
            "Bearer wrong",
            "Bearer secret2",
            "Bearer",
            "Bearer ",
            "Basic secret",
            "secret",
            "",
            "Bearer secre",
        ):
            told(client.predict(JPEG, headers={"authorization": given}), 401)
        told(client.predict(JPEG, headers=[("authorization", "Bearer secret")] * 2), 401)
        told(client.predict(JPEG, headers={"authorization": b"Bearer \xff\xfe"}), 401)
        assert client.predict(JPEG, headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.predict(JPEG, headers={"authorization": "bearer secret"}).status_code == 200


def test_no_origin_is_named_unless_it_was_allowed() -> None:
    with served() as service:
        asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
        closed = Client(service)
        told(closed("OPTIONS", "/predict", headers=asked), 405)
        assert not any("access-control" in name for name in closed.predict(JPEG, headers=asked).headers)

        client = Client(service, token="secret", origins=("https://example.org",))
        preflight = client("OPTIONS", "/predict", headers=asked)  # a browser sends no token with it
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = client.predict(JPEG, headers={**asked, "authorization": "Bearer secret"})
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert answer.headers["vary"] == "origin"
        for other in ("https://example.org.evil.com", "null", "http://example.org", "https://EXAMPLE.org", "*"):
            told(client("OPTIONS", "/predict", headers={**asked, "origin": other}), 401)
            answer = client.predict(JPEG, headers={"origin": other, "authorization": "Bearer secret"})
            assert "access-control-allow-origin" not in answer.headers
        told(client("OPTIONS", "/predict", headers={"origin": "https://example.org"}), 401)


# faults of the server


def test_memory_that_runs_out_in_the_decoder_and_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = False

    def before(images: Any) -> None:
        if fails:
            raise MemoryError

    with served(stub(StubPredictor(before))) as service:
        client = Client(service)
        with monkeypatch.context() as patch:
            patch.setattr("zoo.data.image.to_rgb", lambda *given: np.empty((2**46,), np.uint8))
            answer = client.predict(JPEG)
            told(answer, 503, "memory")
            assert int(answer.headers["retry-after"]) >= 1
        fails = True
        told(client.predict(JPEG), 503, "memory")
        fails = False
        assert client.predict(JPEG).status_code == 200 and client("GET", "/v2/health/ready").status_code == 200
        until(lambda: service.pool.pixels_in_flight == 0 and service.pool.busy == 0)


def test_logits_that_are_not_finite(client: Client) -> None:
    given: list[Any] = []
    with served(stub(StubPredictor(lambda images: given or None))) as service:
        client = Client(service)
        for _ in range(2):  # one that is right between two wrong ones: the model is not broken
            given[:] = [[np.nan, 1.0]]
            for _ in range(2):
                told(client.predict(JPEG), 500, "damaged")
            given.clear()
            assert client.predict(JPEG).status_code == 200
            assert client("GET", "/v2/health/ready").status_code == 200
        given[:] = [[np.nan, 1.0]]
        for ready in (200, 200, 503):
            told(client.predict(JPEG), 500, "damaged")
            assert client("GET", "/v2/health/ready").status_code == ready
        assert client("GET", "/v2/health/live").status_code == 200
        assert client("GET", "/v2/models/model/ready").status_code == 503
        assert 'zoo_rejected_total{reason="not finite"} 7.0' in client("GET", "/metrics").text
        service.put(stub())  # a swap mends it, unless it is the same file
        given.clear()
        assert client.predict(JPEG).status_code == 200 and client("GET", "/v2/health/ready").status_code == 200


def test_a_fault_of_the_server_is_one_line_of_json_and_one_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served() as service:
        client = Client(service)
        monkeypatch.setattr("zoo.serving.app.prediction", lambda *given: dict[str, int]()["secret"])
        told(client.predict(JPEG), 500, "a fault in the server")
        assert [record.getMessage() for record in caplog.records if record.name == "zoo.serve"] == [
            next(
                record.getMessage()
                for record in caplog.records
                if "POST predict: KeyError: 'secret'" in record.getMessage()
            )
        ]
        assert not any(record.exc_info for record in caplog.records)
        monkeypatch.undo()
        assert client.predict(JPEG).status_code == 200


def test_names_that_prometheus_cannot_write_do_not_hide_the_metrics(client: Client) -> None:
    client.predict(b"no image")
    assert 'zoo_requests_total{code="422",route="predict"}' in client("GET", "/metrics").text
    assert client("GET", "/metrics").text.count("route=") < 200


def test_a_file_that_curl_changed_is_told_how_to_be_sent(client: Client) -> None:
    """`curl --data @photo.jpg` leaves out line breaks and zeros; `--data-binary` names the same type of content."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    changed = bytes(one for one in encoded(photograph(64, 48)) if one not in b"\r\n\0")
    answer = client.predict(changed, headers=form)
    assert answer.status_code == 422 and "--data-binary @photo.jpg" in answer.json()["hint"]
    assert "--data-binary" not in client.predict(changed).json()["hint"]
    assert client.predict(JPEG, headers=form).status_code == 200
