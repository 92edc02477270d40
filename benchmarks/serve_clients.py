"""Shows by real clients that `zoo serve` speaks the Open Inference Protocol, and compares its errors with Triton's.

    python benchmarks/serve_clients.py FILE.onnx PHOTOGRAPHS [--most 153] [--triton] [--out benchmarks/results]

Makes an environment of its own with `tritonclient[http,grpc]` and `kserve`, starts the server on two copies of the
file, and runs `clients/check_*.py` there: every call of both clients, and all photographs by each way to send them,
compared bit for bit with `zoo predict`. With `--triton` another environment gets `nvidia-pytriton`, whose real
`tritonserver` is asked the same malformed requests (`clients/malformed.py`). Needs a network for pip, and grpcio.
Exit code 1 if a call is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from clients import malformed

from zoo.data.image import decode
from zoo.dataset import FileSource
from zoo.serving.grpc_messages import message
from zoo_onnx.session import open_file

CLIENTS = ("tritonclient[http,grpc]", "kserve", "pillow")
TRITON = ("nvidia-pytriton",)
HERE = Path(__file__).parent


def environment(folder: Path, packages: tuple[str, ...], made_by: str = sys.executable) -> Path:
    """The Python of an environment with packages; it is made if it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([made_by, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def alone() -> dict[str, str]:
    """The variables of a program that sees its own environment only."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def expected(file: Path, folder: Path, most: int) -> dict[str, Any]:
    """What `zoo predict` says of photographs, and the logits behind it."""
    command = [sys.executable, "-m", "zoo_cli.main", "predict", file, folder, "--json", "--top", "1000"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    rows = rows[:: max(len(rows) // most, 1)][:most]  # of all classes
    opened = open_file(file, "cpu")
    photographs = []
    for row in rows:
        shares = {one["label"]: one["probability"] for one in row["top"]}
        photographs.append(
            {
                "path": str(Path(row["path"]).absolute()),
                "label": row["label"],
                "probabilities": [shares[name] for name in opened.classes],
                "logits": opened.logits([decode(FileSource(Path(row["path"])))])[0].tolist(),
            }
        )
    descriptor = message("ModelInferRequest").DESCRIPTOR.file.serialized_pb
    return {"photographs": photographs, "descriptor": descriptor.hex()}


@contextmanager
def served(file: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """A running `zoo serve` of two copies of a file: its addresses for HTTP and gRPC, and what it said at the start."""
    files = [shutil.copy(file, folder / name) for name in ("model.onnx", "other.onnx")]
    command = [sys.executable, "-m", "zoo_cli.main", "serve", *files, "--port", "0", "--grpc-port", "0"]
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen([*command, "--drain", "0"], stderr=log)
        try:
            found = None
            while found is None and server.poll() is None:
                told = (folder / "server.log").read_text(encoding="utf-8")
                found = re.search(r"serving on http://(\S+) and gRPC on (\S+),", told)
            assert found is not None, told
            yield found[1], found[2], told
        finally:
            server.terminate()
            server.wait()


class Triton:
    """A Triton that is started, and started again when a request has ended it."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._program: subprocess.Popen[str] | None = None

    def address(self, kind: int) -> str:
        """Where it listens: 0 for HTTP, 1 for gRPC."""
        if not self.is_up():
            self.stop()
            self._start()
        return f"127.0.0.1:{self._ports[kind]}"

    def is_up(self) -> bool:
        """Whether it answers a good request."""
        return self._program is not None and malformed.answers(f"127.0.0.1:{self._ports[0]}")

    def _start(self) -> None:
        self._ports = []
        for _ in range(2):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports.append(free.getsockname()[1])
        self._program = subprocess.Popen(
            [self._python, HERE / "clients/triton_server.py", *map(str, self._ports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=alone(),
        )
        assert self._program.stdout is not None
        assert any(line == "ready\n" for line in self._program.stdout), "Triton did not start"

    def stop(self) -> None:
        """End it and its processes."""
        if self._program is None:
            return
        family = psutil.Process(self._program.pid)
        for one in (*family.children(recursive=True), family):
            one.kill()
        self._program.communicate()
        self._program = None


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def report(found: dict[str, Any], batching: list[str]) -> str:
    """What the clients found, as Markdown."""
    calls, versions = found["calls"], found["versions"]
    wrong = [one for one in calls if not one["right"]]
    names = sorted({one["client"] for one in calls})
    parts = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"# Real clients of `zoo serve`\n\nMade by `benchmarks/serve_clients.py`, with {parts}.\n"
    text += f"The server says: {'; '.join(batching)}.\n"
    text += "\n## Calls\n\nA call is right if it gives what it should, or the error that it should.\n\n"
    counts = [(name, [one for one in calls if one["client"] == name]) for name in names]
    text += table(
        ("client", "calls", "right"),
        [(name, len(own), sum(one["right"] for one in own)) for name, own in counts],
    )
    if wrong:
        rows = [(one["client"], one["call"], one["said"][:200]) for one in wrong]
        text += "\n\nWrong:\n\n" + table(("client", "call", "said"), rows)
    errors = [one for one in calls if one["right"] and one["said"] != "as expected"]
    text += "\n\nCalls that get an error, as they should:\n\n"
    short = [re.sub(r"127\.0\.0\.1:\d+", "HOST", one["said"])[:160] for one in errors]
    rows = [(one["client"], one["call"].strip(), said) for one, said in zip(errors, short, strict=True)]
    text += table(("client", "call", "error"), rows)
    text += "\n\nThe others:\n\n"
    for name, own in counts:
        text += f"- {name}: " + "; ".join(one["call"].strip() for one in own if one["said"] == "as expected") + "\n"
    text += "\n## Photographs\n\nAnswers that equal `zoo predict` bit for bit, its probabilities as float32.\n\n"
    head = ("client", "sent", "photographs", "label", "logits", "probabilities")
    text += table(head, [tuple(one[name] for name in head) for one in found["photographs"]])
    text += "\n\n## Messages\n\nThe fields of our messages beside those that the clients bring.\n\n"
    rows = [
        (one["client"], one["same"], ", ".join(one["differ"]) or "none", ", ".join(one["absent"]) or "none")
        for one in found["messages"]
    ]
    return text + table(("client", "same", "differ", "not in the client"), rows) + "\n"


def beside(ours: list[Any], theirs: list[Any]) -> str:
    """What two servers say to the same requests, as Markdown."""
    rows = []
    for (what, status, said), (_, their_status, their_said) in zip(ours, theirs, strict=True):
        rows.append((what, status, said[:110], their_status, their_said[:110]))
    return table(("request", "zoo", "it says", "Triton", "it says"), rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--most", type=int, default=153, help="photographs")
    parser.add_argument("--triton", action="store_true", help="compare malformed requests with a real Triton")
    parser.add_argument(
        "--triton-python",
        default=sys.executable,
        help="makes Triton's environment; the dynamic linker must find its libpython, as it finds the system's",
    )
    parser.add_argument("--environments", type=Path, default=Path("build/clients"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    python = environment(options.environments / "clients", CLIENTS)
    told = expected(options.file, options.photographs, options.most)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "expected.json").write_text(json.dumps(told, allow_nan=False), encoding="utf-8")
        with served(options.file, folder) as (http, grpc, said):
            found: dict[str, Any] = {"versions": {}, "calls": [], "photographs": [], "messages": []}
            for client in ("tritonclient", "kserve"):  # in one process their messages would collide
                command = [python, HERE / f"clients/check_{client}.py", folder / "expected.json", http, grpc]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone())
                own = json.loads(done.stdout.splitlines()[-1])
                found["versions"] |= own["versions"]
                found["calls"] += own["calls"]
                found["photographs"] += own["photographs"]
                found["messages"].append(own["messages"])
            text = report(found, re.findall(r"batches of up to \d+", said))
            if options.triton:
                theirs = Triton(environment(options.environments / "triton", TRITON, options.triton_python))
                text += "\n## Malformed requests beside Triton\n\nTriton is `tritonserver` 2.51 of `nvidia-pytriton`,"
                text += " with a Python function in the place of the network. After `it died` it answers no"
                text += " good request any more, and is started again."
                for name, ask, kind, own in (
                    ("HTTP", malformed.over_http, 0, http),
                    ("gRPC", malformed.over_grpc, 1, grpc),
                ):
                    said_by = ask(lambda k=kind: theirs.address(k), theirs.is_up)
                    text += f"\n\n{name}:\n\n" + beside(ask(lambda o=own: o), said_by)
                theirs.stop()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving_clients.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(any(not one["right"] for one in found["calls"]))


if __name__ == "__main__":
    main()
