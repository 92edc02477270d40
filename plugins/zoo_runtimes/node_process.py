"""A node process that runs onnxruntime-web, the engine of browsers, for one model; spoken to over pipes."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from zoo.errors import ZooError, first_line
from zoo.exporter import json_text
from zoo_runtimes.node_package import INSTALL, PACKAGE, check_node, find_installation

SCRIPT = Path(__file__).with_name("onnxruntime_web.mjs")


class NodeProcess:
    """A model that onnxruntime-web opened in a node process. The process ends with this object, or with this process.

    Attributes:
        version: Version of onnxruntime-web.
        threads: Threads that it computes with, which may be fewer than were asked for.
        outputs: Names of the model's outputs.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        """Start the process and open a model.

        Args:
            model: An ONNX model with its weights.
            threads: Threads to compute with, at most.

        Raises:
            ZooError: node or onnxruntime-web is absent, or cannot open the model.
        """
        found = find_installation()
        check_node(found.node)
        self._lock = threading.Lock()  # JavaScript answers one call at a time
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [found.node, str(SCRIPT), str(found.module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.close = weakref.finalize(self, _end, self._process, self._log)
        try:
            opened, _ = self._ask({"do": "open", "threads": threads}, model)
        except ZooError as error:
            self.close()
            raise ZooError(f"{PACKAGE} cannot open the model: {error.message}", hint=error.hint) from error
        self.version, self.threads = str(opened["version"]), int(opened["threads"])
        self.outputs: tuple[str, ...] = tuple(opened["outputs"])

    @property
    def provider(self) -> str:
        """What computes: the name and version of the package, and its backend."""
        return f"{PACKAGE} {self.version} WebAssembly"

    def run(self, outputs: Sequence[str], name: str, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Compute the named outputs of the input `name`.

        Raises:
            ZooError: the model does not run, or node has ended.
        """
        request = {"do": "run", "outputs": list(outputs), "input": _described(name, array)}
        answer, content = self._ask(request, np.ascontiguousarray(array).data.cast("B"))
        found, start = [], 0
        for one in answer["outputs"]:
            dtype, count = np.dtype(one["dtype"]), int(np.prod(one["shape"], dtype=np.int64))
            found.append(np.frombuffer(content, dtype, count, start).reshape(one["shape"]))
            start += count * dtype.itemsize
        return found

    def keep(self, name: str, array: npt.NDArray[Any]) -> int:
        """Send an input that `call` computes with; returns its number.

        Raises:
            ZooError: as `run`.
        """
        request = {"do": "keep", "input": _described(name, array)}
        return int(self._ask(request, np.ascontiguousarray(array).data.cast("B"))[0]["kept"])

    def call(self, kept: int, outputs: Sequence[str]) -> None:
        """Compute the named outputs of an input that was kept. They stay in the process.

        Raises:
            ZooError: as `run`.
        """
        self._ask({"do": "call", "kept": kept, "outputs": list(outputs)})

    def _ask(self, request: dict[str, Any], content: bytes | memoryview = b"") -> tuple[dict[str, Any], bytes]:
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None and answers is not None
        header = json_text({**request, "bytes": len(content)}).encode()
        try:
            with self._lock:
                pipe.write(len(header).to_bytes(4, "little") + header)
                pipe.write(content)
                pipe.flush()
                answer = json.loads(_read(answers, int.from_bytes(_read(answers, 4), "little")))
                found = _read(answers, answer["bytes"])
        except (EOFError, BrokenPipeError) as error:
            status = self._process.wait()
            if status < 0:
                raise ZooError(
                    f"node was ended by signal {-status}",
                    hint="9 (SIGKILL) is also how the system ends a program when memory runs out",
                ) from error
            self._log.seek(0)
            said = [line for line in self._log.read().decode(errors="replace").splitlines() if "Error" in line]
            raise ZooError(
                f"node ended with status {status}{f': {said[0].strip()}' if said else ''}", hint=f"{INSTALL} again"
            ) from error
        if "error" in answer:
            raise ZooError(first_line(RuntimeError(answer["error"])))
        return answer, found


def _described(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}


def _read(answers: IO[bytes], count: int) -> bytes:
    found = answers.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, log):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # a request that was not sent to its end
