"""What a server of `zoo serve` does under faults: malformed requests, swaps and signals, each beside a load.

python benchmarks/serve_faults.py RUN [--requests 10000] [--swaps 20] [--signals 20] [--schemathesis PROGRAM]

RUN is the folder of a finished run with its `model.onnx`. Writes a table to stdout. `--schemathesis` is the program in
a virtual environment of its own; it generates requests from the served OpenAPI description, besides the corpus here.
"""

from __future__ import annotations

import argparse
import base64
import collections
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile_images as hostile
from hostile_images import encoded, photograph
from serving_processes import Load, Server
from serving_support import new_version, post, until

CLIENTS = 4
WARM_UP = 2000  # malformed requests, after which the memory is that of the largest images of the corpus
SEED = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--schemathesis")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = Path(shutil.copy(asked.run / "model.onnx", folder / "model.onnx"))
        print("| part | result |\n| --- | --- |")
        if asked.requests:
            malformed(file, folder, asked.requests, asked.schemathesis)
        if asked.swaps:
            swaps(file, folder, asked.swaps)
        if asked.signals:
            signals(file, folder, asked.signals)


def told(part: str, result: str) -> None:
    print(f"| {part} | {result} |", flush=True)


def memory(server: Server) -> float:
    """Proportional set size of the server process in MB."""
    text = Path(f"/proc/{server.child()}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) / 1024  # type: ignore[union-attr]


def files_and_threads(server: Server) -> tuple[int, int]:
    process = Path(f"/proc/{server.child()}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def stopped(server: Server) -> int:
    server.process.terminate()
    return server.process.wait(300)


# malformed requests


def base_images() -> list[bytes]:
    image, small = photograph(300, 200), photograph(20, 20, 1)
    several: dict[str, Any] = {"save_all": True, "append_images": [small, small]}
    return [
        encoded(image),
        encoded(image, progressive=True),
        encoded(image, exif=b"Exif\0\0" + hostile.tags(10, 20, 400)),
        encoded(image.convert("CMYK")),
        encoded(small, "MPO", **several),
        encoded(image, "PNG"),
        encoded(image.quantize(16), "PNG", transparency=1),
        encoded(image.convert("I;16") if image.mode == "I;16" else image.convert("L"), "PNG"),
        encoded(small, "PNG", **several),
        encoded(image, "WEBP"),
        encoded(small, "WEBP", lossless=True, **several),
        encoded(image, "BMP"),
        encoded(image.quantize(16), "BMP"),
        encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image.convert("1"), "TIFF", compression="group4"),
        encoded(small, "TIFF", **several),
        hostile.tiff(),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A copy with a few faults: flipped and replaced bytes, lengths, cuts, repeats and splices. Often in the header."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not found:
            break
        place = chance.randrange(min(len(found), chance.choice((32, 256, 10**9))))
        kind = chance.randrange(7)
        if kind == 0:
            found[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            found[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            value = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)))
            found[place : place + 4] = value.to_bytes(4, chance.choice(("little", "big")))
        elif kind == 3:
            del found[place:]
        elif kind == 4:
            del found[place : place + chance.randrange(1, 64)]
        elif kind == 5:
            found[place:place] = found[place : place + chance.randrange(1, 4096)] * chance.choice((1, 2, 50))
        else:
            found[place:place] = chance.randbytes(chance.randrange(1, 64))
    return bytes(found)


JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 999, 2**31, 2**63, 1e308, "", "x", "\0", "\ud83d", [], {}, [[]], {"name": 1}, "A" * 5000,
    [1] * 500, [[[[1]]]], {"binary_data_size": 5}, {"shared_memory_region": "r"}, [-1], [2**40] * 4, "BYTES", "UINT8",
)  # fmt: skip


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with one part replaced, removed or repeated."""
    if chance.random() < 0.25 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        key = chance.choice(list(value))
        kept = {name: one for name, one in value.items() if name != key or chance.random() < 0.8}
        if key in kept:
            kept[key] = changed(kept[key], chance)
        return kept
    index = chance.randrange(len(value))
    return [*value[:index], changed(value[index], chance), *value[index + chance.randrange(2) :]]


def infer(chance: random.Random, images: list[bytes]) -> bytes:
    path = chance.choice(("/v2/models/model/infer", "/v2/models/model/versions/1/infer"))
    tensor: dict[str, Any] = {"name": "photographs", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [7] * 12}
    if chance.random() < 0.5:
        text = base64.b64encode(chance.choice(images)).decode()
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    outputs = [{"name": "logits", "parameters": {"classification": 1}}, {"name": "label"}]
    request = {"id": "1", "parameters": {"binary_data_output": False}, "inputs": [tensor], "outputs": outputs}
    if chance.random() < 0.3:
        data = bytes(12)
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(data)}
        body = json.dumps(changed(request, chance), allow_nan=False).encode()
        length = len(body) + chance.choice((0, 0, 0, -1, 1, 10**6))
        return post(path, mutated(body + data, chance), f"Inference-Header-Content-Length: {length}")
    body = json.JSONEncoder().encode(changed(request, chance)).encode()
    return post(path, mutated(body, chance) if chance.random() < 0.3 else body)


PARTS = ("..", "%00", "%2e%2e", "x" * 3000, "%ff", "model", "v2", "models", "predict", "\u00e9", "*", "?", "#")
HEADERS = (
    "X: y", "Content-Encoding: gzip", "Expect: 100-continue", "Upgrade: h2c", "Connection: close", "Content-Length: 3",
    "Content-Type: multipart/form-data", "Transfer-Encoding: chunked",
)  # fmt: skip


def other(chance: random.Random, images: list[bytes]) -> bytes:
    """Paths, methods, queries and headers."""
    part = chance.choice(PARTS)
    path = chance.choice(("/{0}", "/v2/{0}", "/v2/models/{0}/infer", "/predict?top={0}", "/predict?{0}")).format(part)
    header = chance.choice(HEADERS)
    method = chance.choice((b"GET", b"PUT", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"POST"))
    body = chance.choice((b"", b"x", images[0]))
    return method + post(path, body, header)[4:]


def corpus(count: int) -> Iterator[bytes]:
    """Requests, of which nearly all are malformed."""
    chance = random.Random(SEED)
    images = base_images()
    costly = [
        hostile.png_bomb(), hostile.webp_with_canvas(16_000, 16_000), hostile.tiff_with_huge_tile(),
        hostile.jpeg_of_many_scans(500), hostile.png_of_many_chunks(100_000), hostile.tags(5000, 90_000, 100_000),
        hostile.jpeg_with_exif(hostile.tags(3000, 60_000, 62_000)), hostile.tiff_with_loop(),
        b"[" * 100_000, b"x" * 2**20,
    ]  # fmt: skip
    for _ in range(count):
        kind = chance.random()
        if kind < 0.55:
            yield post("/predict", mutated(chance.choice(images), chance))
        elif kind < 0.75:
            yield infer(chance, images)
        elif kind < 0.85:
            yield mutated(post("/predict", images[0][:2000]), chance)
        elif kind < 0.95:
            yield other(chance, images)
        else:
            yield post(chance.choice(("/predict", "/v2/models/model/infer")), chance.choice(costly))


def send(address: tuple[str, int], request: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer; 0 if the server closed without one."""
    with socket.create_connection(address, 120) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR) if not request else None
        except OSError:
            pass
        found = b""
        connection.settimeout(0.7)
        while True:
            try:
                part = connection.recv(65_536)
            except TimeoutError:  # the request is not complete, and the server waits for the rest
                if found or request_is_incomplete(request):
                    break
                connection.settimeout(60)
                continue
            except OSError:
                break
            found += part
            head, _, body = found.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                head, _, body = body.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if not part or (length and len(body) >= int(length.group(1))):
                break
    statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", found)
    last = found.rpartition(b"\r\n\r\n")[2]
    return (int(statuses[-1]) if statuses else 0), last


def request_is_incomplete(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.I)
    return not end or b"chunked" in head or bool(length and len(body) < int(length.group(1)))


def malformed(file: Path, folder: Path, count: int, schemathesis: str | None) -> None:
    server = Server(folder / "log", file, "--drain", "0")
    good = post("/predict", encoded(photograph(300, 200)))
    for _ in range(100):
        assert send(server.address, good)[0] == 200
    at_first = memory(server)
    statuses: collections.Counter[int] = collections.Counter()
    faults: list[str] = []
    lock = threading.Lock()

    def work(requests: Iterator[bytes]) -> None:
        while True:
            with lock:
                request = next(requests, None)
            if request is None:
                return
            status, body = send(server.address, request)
            with lock:
                statuses[status] += 1
                if status >= 500 and status not in (503, 504):
                    faults.append(f"{status} {body[:200]!r} to {base64.b64encode(request[:3000]).decode()[:4000]}")
                if status >= 400 and body and b"error" not in body[:20] and not request.startswith(b"HEAD"):
                    faults.append(f"{status} is not JSON: {body[:200]!r} to {request[:100]!r}")

    def run(requests: Iterator[bytes]) -> None:
        threads = [threading.Thread(target=work, args=(requests,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run(corpus(min(WARM_UP, count)))
    before, opened = memory(server), files_and_threads(server)
    statuses.clear()
    begun = time.monotonic()
    run(corpus(count))
    took = time.monotonic() - begun
    for _ in range(100):
        assert send(server.address, good)[0] == 200
    until(lambda: files_and_threads(server)[0] <= opened[0] + 2)
    after = memory(server)
    told(f"{count:,} malformed requests, seed {SEED}", f"{sum(statuses.values()):,} sent in {took:.0f} s")
    told("answers by status (0: closed, or the request was never complete)", ", ".join(
        f"{status}: {number:,}" for status, number in sorted(statuses.items())))  # fmt: skip
    told("answers of 500, or that are not JSON", str(len(faults)))
    told(f"memory after 100 good requests, after {WARM_UP:,} malformed ones, after all (MB)",
         f"{at_first:.0f}, {before:.0f}, {after:.0f}: {after / at_first:.3f} and {after / before:.3f}")  # fmt: skip
    told("open files and threads before and after", f"{opened}, {files_and_threads(server)}")
    if schemathesis:
        run_schemathesis(schemathesis, server)
        told("memory after schemathesis (MB)", f"{memory(server):.0f}: {memory(server) / before:.3f}")
    status = stopped(server)
    log = server.said()
    told("tracebacks, faults and restarts in the log; lines", f"{log.count('Traceback')}, {log.count('a fault')}, "
         f"{log.count('died')}; {len(log.splitlines())}")  # fmt: skip
    told("exit status", str(status))
    for fault in faults[:20]:
        print(fault, file=sys.stderr)


def run_schemathesis(program: str, server: Server) -> None:
    url = f"http://{server.address[0]}:{server.address[1]}"
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [program, "run", f"{url}/openapi.json", "--url", url, "--checks", checks, "--max-examples", "400"]
    command += ["--seed", str(SEED), "--continue-on-failure", "--no-shrink", "--phases", "examples,coverage,fuzzing"]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": ""}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line.strip() for line in found.stdout.splitlines()]
    summary = [line for line in lines if re.match(r"(\d+ generated|Failures:|Server error|Undocumented)", line)]
    told("schemathesis", f"exit {found.returncode}; " + "; ".join(summary))
    print(found.stdout[-6000:], file=sys.stderr)


# swaps and signals under load


def with_note(text: str) -> Callable[[Any], None]:
    return lambda model: setattr(model, "doc_string", text)


def swaps(file: Path, folder: Path, count: int) -> None:
    original = Path(shutil.copy(file, folder / "original.onnx"))
    server = Server(folder / "swaps", file, "--watch", "0.2", "--drain", "1")
    load = Load(server.address, 8)
    until(lambda: load.answered > 50)
    before = memory(server)
    for number in range(count):
        done = server.said().count(" now ")
        new_version(original, file, with_note(f"version {number}"))
        until(lambda done=done: server.said().count(" now ") > done)
    answered = load.answered
    load.stop()
    told(f"{count} swaps beside 8 clients, half of them with a connection for each request",
         f"{answered:,} answered, {len(load.lost)} lost; {server.said().count(' now ')} swaps done")  # fmt: skip
    told("memory before and after the swaps (MB)", f"{before:.0f}, {memory(server):.0f}")
    told("exit status", str(stopped(server)))
    for one in load.lost[:5]:
        print(one, file=sys.stderr)


def signals(file: Path, folder: Path, count: int) -> None:
    chance = random.Random(SEED)
    answered, lost, statuses = 0, [], collections.Counter[int]()
    for number in range(count):
        server = Server(folder / f"signals{number}", file, "--drain", "1")
        load = Load(server.address, 8)
        until(lambda load=load: load.answered > 20)
        time.sleep(chance.random())
        statuses[stopped(server)] += 1
        load.stop()
        answered += load.answered
        lost += load.lost
    told(f"{count} times SIGTERM beside 8 clients, half of them with a connection for each request",
         f"{answered:,} answered, {len(lost)} lost; exit status {dict(statuses)}")  # fmt: skip
    for one in lost[:5]:
        print(one, file=sys.stderr)


if __name__ == "__main__":
    main()
