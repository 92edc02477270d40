"""Exports a torch network to ONNX: `pixels` (N, 3, height, width) to `logits` (N, classes), for any batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from zoo.errors import ZooError
from zoo.preprocess import ImageSize, height_width
from zoo_onnx.layers import first_apart, outputs_of_modules
from zoo_onnx.size import open_model
from zoo_onnx.tensor_names import FEATURES, LOGITS, PIXELS

# The oldest opset with an antialiased Resize. Nine networks of torchvision and timm exported correctly with it
OPSET = 18

# Two, because an exporter may treat a batch of 1 as a constant
TRACED_BATCH = 2
# A batch size that was fixed by mistake shows at any size but the traced one
CHECKED_BATCHES = (1, 2, 7)
# As a fraction of the largest logit. Engines in fp32 differ by 1e-6 to 1e-5, a wrong operator by far more
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """An ONNX model, its exporter, and its largest difference from torch, relative to the largest logit."""

    model: onnx.ModelProto
    exporter: str
    difference: float


def export_network(model: nn.Module, size: ImageSize, head: str | None = None) -> ExportedNetwork:
    """Export with `torch.export`, or with TorchScript if that fails, and compare with torch at several batch sizes.

    `head` is the path of the module whose input `features` the model also gives, as an output. None: it does not.

    Raises:
        ZooError: neither gives a model that agrees with torch.
    """
    was_training = model.training
    model.eval()
    reasons = []
    try:
        for name, export in _EXPORTERS.items():
            try:
                with quiet(), _out_of_place(model), with_features(model, head) as traced:
                    exported = export(traced, size, *(() if head is None else ((LOGITS, FEATURES),)))
            except Exception as error:  # torch's exporters raise exceptions of any type
                reasons.append(f"{name}: {_first_line(error)}")
                continue
            ends = outputs_of_modules(exported)
            _strip(exported)
            difference, batch = compare(model, exported, size, head)
            if difference <= TOLERANCE:
                return ExportedNetwork(model=exported, exporter=name, difference=difference)
            reasons.append(
                f"{name}: at batch {batch} the logits differ from torch's by {difference:.2g} of the largest"
                f"{_where(model, exported, ends, batch, size)}"
                if np.isfinite(difference)
                else f"{name}: at batch {batch} the model does not run, or its logits are not finite"
            )
    finally:
        model.train(was_training)
    raise ZooError(
        f"the network cannot be exported to ONNX; {'; '.join(reasons)}",
        hint="try `zoo export --to pt2`, which supports more networks",
    )


def compare(model: nn.Module, exported: onnx.ModelProto, size: ImageSize, head: str | None = None) -> tuple[float, int]:
    """Largest difference from torch's logits, relative to the largest logit, and the batch size where it occurs.

    With `head` it is that of the features, too, relative to the largest of them.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch computes between the calls
    generator = torch.Generator().manual_seed(0)
    worst, where = 0.0, CHECKED_BATCHES[0]
    session: ort.InferenceSession | None = None
    for batch in CHECKED_BATCHES:
        pixels = torch.randn(batch, 3, *height_width(size), generator=generator)
        with torch.inference_mode():
            # The memory layout in which the run was evaluated; also the faster one
            with with_features(model, head) as traced:
                given = traced(pixels.contiguous(memory_format=torch.channels_last))
            outputs = [one.float().numpy() for one in (given if isinstance(given, tuple) else (given,))]
        try:
            if session is None:
                session = open_model(exported, options)
            names = [LOGITS, FEATURES][: len(outputs)]
            answers = session.run(names, {PIXELS: pixels.numpy()})
        except Exception:  # onnxruntime's exceptions have no common base class
            return float("inf"), batch
        for found, expected in zip(answers, outputs):
            if found.shape != expected.shape or not np.isfinite(found).all():
                return float("inf"), batch
            difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))
            if difference > worst:
                worst, where = difference, batch
    return worst, where


def _where(model: nn.Module, exported: onnx.ModelProto, ends: dict[str, str], batch: int, size: ImageSize) -> str:
    """The first layer that differs from torch, as the end of a sentence; empty if it cannot be found."""
    pixels = torch.randn(batch, 3, *height_width(size), generator=torch.Generator().manual_seed(0))
    try:
        path = first_apart(model, exported, ends, pixels, TOLERANCE)
    except Exception:  # from onnxruntime, for a graph with more outputs; the message is complete without it
        return ""
    return f", first in layer `{path}`" if path else ""


@contextlib.contextmanager
def with_features(model: nn.Module, head: str | None) -> Iterator[nn.Module]:
    """The model or, with `head`, a module that gives logits and the head's input."""
    if head is None:
        yield model
        return
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield _WithFeatures(model, seen).eval()
    finally:
        handle.remove()


class _WithFeatures(nn.Module):
    """A network, and what a hook puts into a list while it computes."""

    def __init__(self, model: nn.Module, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._seen = seen

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._seen.clear()
        logits: torch.Tensor = self.model(images)
        return logits, self._seen[-1]


def _by_torch_export(model: nn.Module, size: ImageSize, outputs: Sequence[str] = (LOGITS,)) -> onnx.ModelProto:
    example = torch.zeros(TRACED_BATCH, 3, *height_width(size))
    program = torch.onnx.export(
        model,
        (example,),
        input_names=[PIXELS],
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
        external_data=False,
    )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _by_torchscript(model: nn.Module, size: ImageSize, outputs: Sequence[str] = (LOGITS,)) -> onnx.ModelProto:
    example = torch.zeros(TRACED_BATCH, 3, *height_width(size))
    written = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        written,  # type: ignore[arg-type]  # this exporter writes to streams; the annotation is that of the other one
        input_names=[PIXELS],
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=False,
        dynamic_axes={name: {0: "N"} for name in (PIXELS, *outputs)},
    )
    return onnx.load_from_string(written.getvalue())


_EXPORTERS: dict[str, Callable[..., onnx.ModelProto]] = {
    "torch.export": _by_torch_export,
    "torchscript": _by_torchscript,
}


def _strip(model: onnx.ModelProto) -> None:
    """Remove debugging information: traces contain paths of this machine and make the file larger."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    del model.graph.metadata_props[:]
    for message in (
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
        *(node for function in model.functions for node in function.node),
    ):
        message.ClearField("doc_string")
        del message.metadata_props[:]


@contextlib.contextmanager
def _out_of_place(model: nn.Module) -> Iterator[None]:
    """Disable `inplace` during the export: `torch.export` rewrites such calls, which doubles its time."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]  # a flag, not a tensor
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' progress, warnings and logs, and disable the fused path of attention."""
    noisy = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    fast = torch.backends.mha.get_fastpath_enabled()
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    # In eval mode `nn.MultiheadAttention` uses a fused path that no exporter supports
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    """Type and first line of the original exception."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
