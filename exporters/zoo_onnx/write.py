"""Writes an ONNX file: network and preprocessing in one graph, metadata, golden inputs and seal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper

from zoo.data.image import normalise, pixels
from zoo.errors import ZooError
from zoo.exporter import ExportSpec
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.storage.files import SCHEMA, write_bytes
from zoo_onnx import metadata as meta
from zoo_onnx.network import OPSET, export_network
from zoo_onnx.precision import TOLERANCES, convert
from zoo_onnx.preprocessing import (
    Preprocessing,
    build_preprocessing,
    photographs_value,
    pixels_value,
)
from zoo_onnx.session import open_file, open_session
from zoo_onnx.size import is_large, move_weights
from zoo_onnx.stages import RESIZE_BOUND, RESIZE_MEAN, part_of
from zoo_onnx.tensor_names import LOGITS, PHOTOGRAPHS, PIXELS, PROBABILITIES


def write(spec: ExportSpec) -> None:
    """Export the network to `spec.file`.

    Raises:
        ZooError: the network cannot be exported or differs from torch, or the file cannot be written.
    """
    if len(set(spec.classes)) != len(spec.classes):
        twice = next(name for name in spec.classes if spec.classes.count(name) > 1)
        raise ZooError(f"class `{twice}` occurs twice; class names must be unique")
    exported = spec.kept.get("network")
    if exported is None:
        exported = spec.kept["network"] = export_network(spec.model, spec.preprocess.crop)
    converted = convert(exported.model, spec)
    model = compose(converted.model, spec, classes=len(spec.classes))
    entries = {
        meta.KEY_SCHEMA: SCHEMA,
        meta.KEY_CLASSES: list(spec.classes),
        meta.KEY_PREPROCESS: spec.preprocess.to_json(),
        **{meta.PREFIX + key: value for key, value in spec.metadata.items()},
        meta.KEY_EXPORTER: {"name": exported.exporter, "opset": OPSET, "difference": exported.difference},
        meta.KEY_MINIMUM: meta.MINIMUM_ONNXRUNTIME,
        meta.KEY_MINIMUM_ON_CPU: meta.MINIMUM_ON_CPU,
        meta.KEY_MINIMUM_ON_CUDA: meta.MINIMUM_ONNXRUNTIME,
        meta.KEY_PRECISION: converted.record,
        meta.KEY_PREPROCESSING: spec.preprocessing,
    }
    taken = [key for key in spec.metadata if meta.PREFIX + key in meta.RESERVED]
    assert not taken, f"metadata may not set {taken}"
    helper.set_model_props(model, {key: meta.encode(value) for key, value in entries.items()})
    try:
        if is_large(model):
            _add(model, meta.KEY_EXTERNAL, move_weights(model, spec.file))
        write_bytes(spec.file, model.SerializeToString())
    except OSError as error:
        raise ZooError(f"`{spec.file}` cannot be written: {error.strerror or error}") from error
    # In fp32 the golden logits are those of the run. In fp16 and int8 the file cannot reproduce them, so they are the
    # file's own, and its difference from the run is measured on photographs instead
    photographs = list(golden_photographs().values())
    answers = (
        torch_logits(spec, photographs) if spec.precision == "fp32" else open_file(spec.file, "cpu").logits(photographs)
    )
    resized = _as_resized_by_the_file(spec, model, photographs)
    golden = Golden.of(spec.classes, answers, TOLERANCES[spec.precision], resized)
    _add(model, meta.KEY_GOLDEN, golden.to_json())
    _add(model, meta.KEY_DIGESTS, meta.digest_parts(model, meta.read(model)))
    write_bytes(spec.file, meta.seal(model))
    check = check_golden(golden, spec.classes, open_file(spec.file, "cpu").logits)
    if not check.passed:
        raise ZooError(f"the exported file and the network predict differently: {check.detail}")


def annotate(file: Path, parity: dict[str, Any]) -> None:
    """Record in a file how much it differs from its run, and renew its seal.

    Raises:
        ZooError: the file cannot be written.
    """
    _replace(file, meta.KEY_PARITY, parity)


def refer(file: Path, reference: dict[str, Any]) -> None:
    """Record in a file what its predictions and the images look like where its run was scored, and renew its seal.

    Raises:
        ZooError: the file cannot be written.
    """
    _replace(file, meta.KEY_REFERENCE, reference)


def _replace(file: Path, key: str, value: Any) -> None:
    model = onnx.load(str(file), load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key not in (meta.KEY_DIGESTS, key)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    _add(model, key, value)
    _add(model, meta.KEY_DIGESTS, meta.digest_parts(model, meta.read(model)))
    write_bytes(file, meta.seal(model))


def compose(network: onnx.ModelProto, spec: ExportSpec, *, classes: int) -> onnx.ModelProto:
    """Add preprocessing before the network and softmax after it: `photographs` to `probabilities` and `logits`.

    If `spec.preprocessing` is `outside`, the input is `pixels`.
    """
    inside = spec.preprocessing == "graph"
    part = build_preprocessing(spec.preprocess) if inside else Preprocessing()
    ours = {PHOTOGRAPHS, PROBABILITIES}
    clashes = ours & {name for node in network.graph.node for name in node.output}
    assert not clashes, f"the network names a tensor {clashes}"
    softmax = helper.make_node("Softmax", [LOGITS], [PROBABILITIES], name=PROBABILITIES, axis=1)
    graph = helper.make_graph(
        [*part.nodes, *network.graph.node, softmax],
        "zoo",
        [photographs_value() if inside else pixels_value(spec.preprocess)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes]) for name in (PROBABILITIES, LOGITS)],
        initializer=[*part.constants, *network.graph.initializer],
        value_info=[pixels_value(spec.preprocess)] if inside else [],
    )
    model = helper.make_model(
        graph,
        opset_imports=network.opset_import,
        functions=network.functions,
        producer_name="zoo",
        producer_version=importlib.metadata.version("backbone-zoo"),
        ir_version=network.ir_version,
    )
    given = (
        f"{PHOTOGRAPHS}: RGB photographs (N, H, W, 3) of any size, upright, 0 to 255. "
        f"`{PIXELS}` is what the network itself is given."
        if inside
        else f"{PIXELS}: photographs prepared and normalised as `{meta.KEY_PREPROCESS}` says."
    )
    model.doc_string = f"{given} {PROBABILITIES}, {LOGITS}: (N, {classes}), in the order of `{meta.KEY_CLASSES}`."
    if not is_large(model):  # the checker needs the model as one message
        onnx.checker.check_model(model)
    return model


def torch_logits(spec: ExportSpec, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of photographs of any size, computed by torch."""
    return _logits_of_inputs(spec, _inputs(spec, photographs))


def _inputs(spec: ExportSpec, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """What the run's network is given for photographs: `(N, 3, h, w)`."""
    return normalise(np.stack([pixels(photograph, spec.preprocess) for photograph in photographs]), spec.preprocess)


def _logits_of_inputs(spec: ExportSpec, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = spec.model(torch.from_numpy(inputs)).float().numpy()
    return logits


def _as_resized_by_the_file(
    spec: ExportSpec, model: onnx.ModelProto, photographs: Sequence[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.float32] | None:
    """Torch's logits of photographs as the file resizes them; None: it does not, or differs by more than rounding."""
    if spec.precision != "fp32" or spec.preprocessing != "graph" or is_large(model):
        return None
    session = open_session(part_of(model, PHOTOGRAPHS, PIXELS), "cpu", spec.file)
    found = np.concatenate([session.run([PIXELS], {PHOTOGRAPHS: one[None]})[0] for one in photographs])
    spread = np.asarray(spec.preprocess.std, np.float32).reshape(3, 1, 1) * 255
    levels = np.abs(found - _inputs(spec, photographs)) * spread
    if levels.max() > RESIZE_BOUND + 1e-3 or levels.mean(axis=(1, 2, 3)).max() > RESIZE_MEAN:
        return None
    return _logits_of_inputs(spec, found)


def _add(model: onnx.ModelProto, key: str, value: Any) -> None:
    entry = model.metadata_props.add()
    entry.key, entry.value = key, meta.encode(value)
