"""onnxruntime-web: an exported file in WebAssembly, as a browser executes it, here under node. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from zoo.errors import UsageError
from zoo.runtime import DeviceName, Input, Workload, asked_threads, usable_cpus
from zoo_onnx.session import OnnxPredictor, predictor_of
from zoo_runtimes.node_process import NodeProcess
from zoo_runtimes.onnxruntime import measured_part, read_model


def open_web(path: Path, device: str) -> OnnxPredictor:
    """Open a file as a predictor, on `auto` or `cpu`.

    Raises:
        UsageError: another device.
        ZooError: the file is missing, damaged, not written by zoo or too new; node or onnxruntime-web is absent.
    """
    if DeviceName.parse(device).kind not in ("auto", "cpu"):
        raise UsageError(f"onnxruntime-web runs on the CPU, not on `{device}`", hint="pass `--device cpu`")
    model = read_model(path)
    node = NodeProcess(model.SerializeToString(), asked_threads() or usable_cpus())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return predictor_of(WebGraph(node), metadata, node.outputs, path)


class WebGraph:
    """A `zoo_onnx.session.Graph` in a node process."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node

    def run(self, outputs: Sequence[str], feed: Mapping[str, npt.NDArray[Any]], options: object = None) -> list[Any]:
        ((name, array),) = feed.items()
        return list(self._node.run(outputs, name, array))

    def get_providers(self) -> list[str]:
        return [self._node.provider]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {}


def load_web(work: Workload) -> WebSession:
    """Open a file, or the network of one.

    Raises:
        ZooError: it is not an ONNX file; node or onnxruntime-web is absent, or cannot open it.
    """
    return WebSession(work)


class WebSession:
    """A file, or the network extracted from it, in a node process."""

    def __init__(self, work: Workload) -> None:
        part = measured_part(read_model(work.target), work)
        self._node = NodeProcess(part.model.SerializeToString(), work.threads)
        self._outputs = part.outputs or self._node.outputs
        self._name, self._input, self._notes = part.name, part.input, list(part.notes)
        self._notes.append("under node; the batch lies in its memory, and a call includes two messages over a pipe")
        if self._node.threads != work.threads:
            self._notes.append(f"{self._node.threads} of {work.threads} threads")

    @property
    def provider(self) -> str:
        return self._node.provider

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    @property
    def input(self) -> Input:
        return self._input

    def prepare(self, batch: npt.NDArray[Any]) -> Callable[[], object]:
        kept = self._node.keep(self._name, batch)
        return lambda: self._node.call(kept, self._outputs)
