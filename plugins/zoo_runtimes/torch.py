"""torch runtimes: the network of a run, in eager mode or compiled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.data.image import normalise, pixels
from zoo.errors import counted
from zoo.preprocess import Preprocess
from zoo.runtime import PHOTOGRAPH, DeviceName, Input, Workload
from zoo.system.accelerator import find_accelerator, name_of, synchronise
from zoo.system.cpu_memory import keep_freed_memory

LAYOUTS = (torch.contiguous_format, torch.channels_last)
LAYOUT_NAMES = {torch.contiguous_format: "contiguous", torch.channels_last: "channels-last"}
LAYOUT_SECONDS = 1.0  # spent on choosing a layout for each batch size
LAYOUT_CALLS = 10  # at most, for each layout

Call = Callable[[], object]


def load_eager(work: Workload) -> TorchSession:
    """Open a run for eager execution.

    Raises:
        ZooError: the run cannot be opened.
    """
    return TorchSession(*open_run(work), work)


def load_compiled(work: Workload) -> TorchSession:
    """Open a run for `torch.compile`; compilation happens at the first call of each batch size.

    Raises:
        ZooError: the run cannot be opened.
    """
    return TorchSession(*open_run(work), work, compiled=True)


def open_run(work: Workload) -> tuple[nn.Module, Preprocess]:
    """The network of a run, on the CPU and in eval mode, and its preprocessing."""
    from zoo.runs.run import Run

    run = Run.open(work.target)
    return run.load_network().model, run.preprocess


class TorchSession:
    """A network on one device. A call includes the conversion of its input to the network's memory layout."""

    def __init__(self, model: nn.Module, preprocess: Preprocess, work: Workload, *, compiled: bool = False) -> None:
        torch.set_num_threads(work.threads)
        asked = DeviceName.parse(work.device)
        self._device = torch.device("cpu") if asked.kind == "cpu" else find_accelerator(asked)
        if self._device.type == "cpu":
            keep_freed_memory()  # as `zoo predict` does
        if self._device.type == "cuda":
            # The defaults of onnxruntime's CUDA provider, so that both compute with the same precision
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._preprocess = preprocess
        self._work = work
        # Compiled for each shape: a network compiled for all shapes would be slower
        self._call: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(self._model, dynamic=False) if compiled else self._model
        )
        self._compiled = compiled
        self._layout = torch.contiguous_format
        self._layouts: dict[int, tuple[torch.memory_format, str]] = {}  # by batch size, with a note
        self._changing = threading.Lock()

    @property
    def provider(self) -> str:
        """The device that holds the parameters."""
        parameter = next(self._model.parameters(), None)
        device = self._device if parameter is None else parameter.device
        name = f" ({name_of(device)})" if device.type != "cpu" else ""
        return f"torch {torch.__version__} {device}{name}"

    @property
    def notes(self) -> tuple[str, ...]:
        notes = [note for _, note in self._layouts.values()]
        if self._device.type == "cuda":
            notes.append("TF32 is allowed, as in onnxruntime; cuDNN chooses its algorithms by benchmarks")
        if torch.get_num_threads() != self._work.threads:
            notes.append(f"torch uses {counted(torch.get_num_threads(), 'thread')}, not {self._work.threads}")
        return tuple(notes)

    @property
    def input(self) -> Input:
        if self._work.with_preprocess:
            return Input(dtype="uint8", shape=(*PHOTOGRAPH, 3))
        return Input(dtype="float32", shape=(3, *self._preprocess.input_size))

    def prepare(self, batch: npt.NDArray[Any]) -> Call:
        if self._compiled:
            return self._call_for(batch, torch.contiguous_format)
        if len(batch) not in self._layouts:  # once for all callers, which share the network
            self._layouts[len(batch)] = self._faster_layout(batch)
        return self._call_for(batch, self._layouts[len(batch)][0])

    def _call_for(self, batch: npt.NDArray[Any], layout: torch.memory_format) -> Call:
        """The function to be timed: from the batch as given to the result, in one memory layout."""
        if self._work.with_preprocess:
            return lambda: self._photographs(batch, layout)
        if self._device.type != "cpu":
            resident = torch.from_numpy(batch).to(self._device)
            return lambda: self._resident(resident, layout)
        return lambda: self._network(torch.from_numpy(batch), layout).numpy()

    @torch.inference_mode()
    def _network(self, images: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
        if layout is not self._layout:  # at most once a slot, in its untimed first call
            with self._changing:
                self._model.to(memory_format=layout)
                self._layout = layout
        return self._call(images.contiguous(memory_format=layout))

    def _resident(self, images: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
        logits = self._network(images, layout)
        synchronise(self._device)
        return logits

    def _photographs(self, photographs: npt.NDArray[np.uint8], layout: torch.memory_format) -> npt.NDArray[Any]:
        """Photographs `(N, H, W, 3)` to probabilities `(N, classes)`, from main memory to main memory."""
        seen = np.stack([pixels(photograph, self._preprocess) for photograph in photographs])
        images = torch.from_numpy(normalise(seen, self._preprocess)).to(self._device)
        probabilities: npt.NDArray[Any] = self._network(images, layout).softmax(dim=1).cpu().numpy()
        return probabilities

    def _faster_layout(self, batch: npt.NDArray[Any]) -> tuple[torch.memory_format, str]:
        """The layout with the lower median time, and a note with the difference. The first call of each is untimed."""
        calls = {layout: self._call_for(batch, layout) for layout in LAYOUTS}
        medians = {}
        for layout, call in calls.items():
            call()
            times: list[float] = []
            begun = time.perf_counter()
            while not times or (len(times) < LAYOUT_CALLS and time.perf_counter() - begun < LAYOUT_SECONDS / 2):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            medians[layout] = float(np.median(times))
        faster, slower = sorted(LAYOUTS, key=lambda layout: medians[layout])
        percent = 100 * (medians[slower] / medians[faster] - 1)
        note = f"batch {len(batch)}: {LAYOUT_NAMES[faster]}, {LAYOUT_NAMES[slower]} took {percent:.0f} % longer"
        return faster, note
