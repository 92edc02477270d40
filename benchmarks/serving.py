"""Measures `zoo serve` against a bare session, by turns in one run.

    python benchmarks/serving.py measure FILE.onnx PHOTOS [--int8 FILE.onnx] [--seconds 10] [--rounds 5]

rate      images per second at 8 callers, at 32 callers with photographs of up to 12 megapixels, and in int8,
          as a share of decoding and classifying in a loop with as many threads
alone     the time of a request of one caller, as a multiple of one bare call
overload  the 99th percentile of accepted requests at four times the callers that fill the server, and how soon the
          others are rejected
memory    the server's resident memory, as a multiple of the bare session's

The load generator shares the processors; its own time is told. Results go to `benchmarks/results/serving.json`, which
`serving.md` shows as tables.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/serving.json"
TOGETHER = 32  # callers that begin in the same moment; more of them begin within PAUSE, as independent clients do
PAUSE = 0.5  # seconds that a caller waits after a 503, on average
MIXED = ((500, 375),) * 6 + ((1024, 768), (1600, 1200), (2048, 1536), (4000, 3000))  # of ten photographs


def load_photographs(folder: Path, mixed: bool) -> list[bytes]:
    """Encoded photographs: as they are, or scaled to the sizes of `MIXED`."""
    from PIL import Image

    files = sorted(folder.rglob("*.jpg"))[:60]
    if not mixed:
        return [file.read_bytes() for file in files]
    found = []
    for number, file in enumerate(files[:20]):
        target = io.BytesIO()
        with Image.open(file) as image:
            image.convert("RGB").resize(MIXED[number % len(MIXED)], Image.Resampling.BICUBIC).save(
                target, "JPEG", quality=90
            )
        found.append(target.getvalue())
    return found


# processes that are measured


def bare(file: str, folder: str, mixed: str, seconds: str) -> None:
    """Decode and classify in a loop of threads; a line on stdin begins a turn, a line on stdout is its result."""
    from zoo.data.image import decode
    from zoo.dataset import BytesSource
    from zoo_onnx.serve import open_to_serve

    predictor = open_to_serve(Path(file), "cpu", 1, False)
    images = load_photographs(Path(folder), mixed == "mixed")
    predictor.logits([decode(BytesSource("one", partial(bytes, images[0])))])
    print(json.dumps({"memory": resident(os.getpid())}, allow_nan=False), flush=True)
    for line in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        turn, until = iter(range(10**9)), begun + float(seconds)
        with ThreadPoolExecutor(int(line)) as pool:
            lists = pool.map(_classify, *zip(*[(predictor, images, turn, until)] * int(line)))
            done = [seconds for one in lists for seconds in one]
        spent = time.perf_counter() - begun
        told = {
            "rate": len(done) / spent,
            "p50": median(done),
            "processor": (time.process_time() - used) / len(done),
            "memory": resident(os.getpid()),
        }
        print(json.dumps(told, allow_nan=False), flush=True)


def _classify(predictor: Any, images: list[bytes], turn: Iterator[int], until: float) -> list[float]:
    """Seconds of each photograph that one thread classifies until a point in time."""
    from zoo.data.image import decode
    from zoo.dataset import BytesSource

    done = []
    while (begun := time.perf_counter()) < until:
        image = images[next(turn) % len(images)]  # `next` of a range is one step of the interpreter
        predictor.logits([decode(BytesSource("one", partial(bytes, image)))])
        done.append(time.perf_counter() - begun)
    return done


def load(port: str, folder: str, mixed: str) -> None:
    """Callers that each send the next photograph once the last is answered; a turn as for `bare`."""
    images = load_photographs(Path(folder), mixed == "mixed")
    if mixed == "base64":
        images = [json.dumps({"image": base64.b64encode(image).decode()}, allow_nan=False).encode() for image in images]
    print("{}", flush=True)
    for line in sys.stdin:
        callers, seconds, path, *how = line.split()
        used = time.process_time()
        found = asyncio.run(_callers(int(port), images, int(callers), float(seconds), path, how == ["together"]))
        print(json.dumps({**found, "own processor": time.process_time() - used}, allow_nan=False), flush=True)


async def _callers(
    port: int, images: list[bytes], callers: int, seconds: float, path: str, together: bool
) -> dict[str, Any]:
    accepted: list[float] = []
    rejected: list[float] = []
    statuses: Counter[str] = Counter()
    turn = iter(range(10**9))
    chance = random.Random(0)
    until = time.perf_counter() + seconds

    async def caller() -> None:
        if callers > TOGETHER and not together:
            await asyncio.sleep(chance.uniform(0, PAUSE))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            image = images[next(turn) % len(images)]
            begun = time.perf_counter()
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(image)}\r\n"
            kind = "application/json" if image.startswith(b"{") else "image/jpeg"
            writer.write(f"{head}content-type: {kind}\r\n\r\n".encode() + image)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))  # type: ignore[index]
            status = head.split()[1]
            statuses[status] += 1
            (accepted if status == "200" else rejected).append(time.perf_counter() - begun)
            if "connection: close" in head.lower():  # rejected before the whole body was read
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if status == "503":  # as a client does that honours Retry-After, but sooner
                await asyncio.sleep(PAUSE if together else chance.uniform(0.5, 1.5) * PAUSE)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    spent = time.perf_counter() - begun
    percentiles = {f"p{level}": float(np.percentile(accepted, level)) for level in (50, 90, 99)} if accepted else {}
    rejections = (
        {"rejected p50": median(rejected), "rejected p99": float(np.percentile(rejected, 99))} if rejected else {}
    )
    return {"rate": len(accepted) / spent, **percentiles, **rejections, "statuses": dict(statuses), "seconds": spent}


def resident(process: int) -> int:
    """Resident memory of a process in bytes."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """A process of this file that answers a line with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Server:
    """`zoo serve`, or another server, on a free port."""

    def __init__(self, command: list[str], port: int, ready: str = "GET /v2/health/ready", body: bytes = b"") -> None:
        self.port, self._stop = port, signal.SIGTERM if body == b"" else signal.SIGKILL
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        while True:
            try:
                asyncio.run(self._ready(ready, body))
                break
            except (OSError, asyncio.IncompleteReadError):
                if self.process.poll() is not None:
                    self._log.seek(0)
                    raise SystemExit(self._log.read().decode()) from None
                time.sleep(0.05)
        self.start_seconds = time.perf_counter() - began

    async def _ready(self, ready: str, body: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        kind = "content-type: application/json\r\n"
        head = f"{ready} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        if b"200" not in await reader.readuntil(b"\r\n"):
            raise OSError("not ready")
        writer.close()

    @property
    def processes(self) -> list[int]:
        """The server's process and those that it started."""
        import psutil

        return [self.process.pid, *(one.pid for one in psutil.Process(self.process.pid).children(recursive=True))]

    def memory(self) -> int:
        return sum(map(resident, self.processes))

    def processor(self) -> float:
        import psutil

        times = [psutil.Process(pid).cpu_times() for pid in self.processes]
        return sum(one.user + one.system for one in times)

    def close(self) -> None:
        import psutil

        others = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(self._stop)
        self.process.wait()
        for one in others:
            with contextlib.suppress(psutil.Error):
                one.kill()


def litserve_server(python: str, file: Path, folder: Path) -> Server:
    """LitServe, ready once it has answered an image."""
    port = _free_port()
    body = json.dumps(
        {"image": base64.b64encode(load_photographs(folder, False)[0]).decode()}, allow_nan=False
    ).encode()
    script = str(ROOT / "benchmarks/peers/litserve_server.py")
    return Server([python, script, str(file), str(port)], port, "POST /predict", body)


def zoo_server(file: Path, *options: str) -> Server:
    port = _free_port()
    program = [sys.executable, "-c", "from zoo_cli.main import main; main()"]
    return Server([*program, "serve", str(file), "--port", str(port), "--drain", "0", "--watch", "0", *options], port)


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# measurements


def by_turns(
    server: Server, session: Worker, client: Worker, callers: int, threads: int, seconds: float, rounds: int, path: str
) -> dict[str, Any]:
    """Server and bare loop in turns; the median of the ratios, and all of them."""
    turns = []
    for _ in range(rounds):
        before = server.processor()
        served = client.ask(f"{callers} {seconds} {path}")
        served["processor"] = (server.processor() - before) / max(sum(served["statuses"].values()), 1)
        turns.append({"served": served, "bare": session.ask(str(threads))})
        print(f"  {callers} callers: {served['rate']:.1f} of {turns[-1]['bare']['rate']:.1f} images/s", flush=True)
    shares = [one["served"]["rate"] / one["bare"]["rate"] for one in turns]
    waits = [one["served"]["p50"] / one["bare"]["p50"] for one in turns]
    work = [one["served"]["processor"] / one["bare"]["processor"] for one in turns]
    return {
        "callers": callers,
        "share of the bare rate": median(shares),
        "from": min(shares),
        "to": max(shares),
        "p50 over a bare call": median(waits),
        "processor per image over bare": median(work),
        "processors of the client": median(
            one["served"]["own processor"] / one["served"]["seconds"] / (os.cpu_count() or 1) for one in turns
        ),
        "turns": turns,
    }


def measure(arguments: argparse.Namespace) -> None:
    from zoo.system.environment import machine, versions
    from zoo.system.other_load import OtherLoad, usable_cpus

    threads, found, load_of_others = usable_cpus(), {}, OtherLoad()
    common = {"threads": threads, "seconds": arguments.seconds, "rounds": arguments.rounds}
    folder = str(arguments.photographs)

    def compare(
        name: str, file: Path, callers: int, how: str = "same", count: int = threads, start: Any = zoo_server
    ) -> None:
        print(name, flush=True)
        server = start(file)
        session = Worker("bare", str(file), folder, how, str(arguments.seconds))
        client = Worker("load", str(server.port), folder, how)
        client.ask(f"{callers} 2 /predict")  # warm
        found[name] = by_turns(server, session, client, callers, count, arguments.seconds, arguments.rounds, "/predict")
        found[name] |= {
            "start seconds": server.start_seconds,
            "memory": server.memory(),
            "bare memory": resident_of(session),
        }
        for one in (client, session, server):
            one.close()

    compare("8 callers", arguments.file, 8)
    compare("32 callers, up to 12 megapixels", arguments.file, 32, "mixed")
    compare("1 caller", arguments.file, 1, count=1)
    if arguments.int8:
        compare("int8, 8 callers", arguments.int8, 8)
    if arguments.litserve:
        start = partial(litserve_server, arguments.litserve, folder=arguments.photographs)
        compare("LitServe, 8 callers", arguments.file, 8, "base64", start=start)
    found["overload"] = overload(arguments.file, folder, arguments.seconds, arguments.rounds)
    told = {
        "machine": machine(),
        "versions": versions(),
        **common,
        "others": load_of_others.average(),
        "measurements": found,
    }
    RESULT.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
    RESULT.with_suffix(".md").write_text(as_markdown(told))
    print(as_markdown(told))


def resident_of(session: Worker) -> int:
    return resident(session.process.pid)


def overload(file: Path, folder: str, seconds: float, rounds: int) -> dict[str, Any]:
    """At capacity: as many callers as the queue and the workers hold. Then four times as many."""
    from zoo.serving.bounds import Bounds
    from zoo.system.other_load import usable_cpus

    capacity = Bounds().queue + usable_cpus()
    server = zoo_server(file)
    client = Worker("load", str(server.port), folder, "same")
    client.ask("8 2 /predict")
    turns = []
    for _ in range(rounds):
        full, over = (client.ask(f"{callers} {seconds} /predict") for callers in (capacity, 4 * capacity))
        turns.append({"full": full, "over": over, "burst": client.ask(f"{4 * capacity} {seconds} /predict together")})
        print(f"  overload: p99 {over['p99']:.3f} s, at capacity {full['p99']:.3f} s", flush=True)
    memory = server.memory()
    client.close()
    server.close()
    return {
        "callers at capacity": capacity,
        "p99 at four times over p99 at capacity": median(one["over"]["p99"] / one["full"]["p99"] for one in turns),
        "rejected after, p50 seconds": median(one["over"].get("rejected p50", 0.0) for one in turns),
        "rejected after, p99 seconds": median(one["over"].get("rejected p99", 0.0) for one in turns),
        "rejected after, p99 seconds, where all callers come in the same moment": median(
            one["burst"].get("rejected p99", 0.0) for one in turns
        ),
        "memory": memory,
        "turns": turns,
    }


def as_markdown(told: dict[str, Any]) -> str:
    """The results as tables."""
    lines = [
        "# `zoo serve` against a bare session",
        "",
        f"{told['machine']['processor']}, {told['machine']['cores']} cores; "
        f"{told['rounds']} turns of {told['seconds']:g} s; "
        f"other programs kept {told['others']:.1f} cores busy, the load generator among them. "
        "Made by `benchmarks/serving.py`; all turns are in `serving.json`.",
        "",
        "| measure | rate / bare | from to | p50 / bare call | processor per image / bare "
        "| client's share of processors | memory / bare |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in told["measurements"].items():
        if "turns" in one and "share of the bare rate" in one:
            lines.append(
                f"| {name} | {one['share of the bare rate']:.3f} | {one['from']:.3f} {one['to']:.3f} | "
                f"{one['p50 over a bare call']:.2f} | {one['processor per image over bare']:.3f} | "
                f"{one['processors of the client']:.1%} | {one['memory'] / 1e6:.0f} / "
                f"{one['bare memory'] / 1e6:.0f} MB = {one['memory'] / one['bare memory']:.2f} |"
            )
    over = told["measurements"]["overload"]
    lines += [
        "",
        "| overload | |",
        "| --- | --- |",
        *(f"| {name} | {value:.3g} |" for name, value in over.items() if isinstance(value, (int, float))),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["bare"]:
        bare(*sys.argv[2:])
    elif sys.argv[1:2] == ["load"]:
        load(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("what", choices=["measure"])
        parser.add_argument("file", type=Path)
        parser.add_argument("photographs", type=Path)
        parser.add_argument("--int8", type=Path)
        parser.add_argument("--litserve", help="Python of an environment with LitServe")
        parser.add_argument("--seconds", type=float, default=10.0)
        parser.add_argument("--rounds", type=int, default=5)
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
