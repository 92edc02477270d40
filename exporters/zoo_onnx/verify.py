"""Verifies a file: its integrity, its metadata, and its predictions for golden inputs.

Each part has a digest of its own. So a change is found even if the digest of the file was renewed, and the message
names the part that changed. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from zoo.errors import ZooError, quoted
from zoo.exporter import Check
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.exporting.unknown_parity import score_differences
from zoo.preprocess import Preprocess
from zoo_onnx import metadata as meta
from zoo_onnx.preprocessing import MEAN, PREFIX, STD, Preprocessing, build_preprocessing
from zoo_onnx.saturation import PROCESSORS, can_saturate, largest_pairs
from zoo_onnx.session import OnnxPredictor, open_file
from zoo_onnx.size import digest_of_file


def verify(path: Path, device: str) -> list[Check]:
    """Check integrity, preprocessing, classes, weights, nodes and golden inputs of a file, in this order.

    Raises:
        ZooError: the file cannot be read, was not written by zoo or is too new; or the device is not available.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}") from error
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # one of protobuf's two classes DecodeError
        raise _no_onnx(path) from error
    if not model.graph.node or not model.graph.output:
        raise _no_onnx(path)
    metadata = meta.read(model)
    meta.check_readable(metadata, path)
    recorded = meta.decode(metadata, meta.KEY_DIGESTS, path)
    external = meta.decode(metadata, meta.KEY_EXTERNAL, path) if meta.KEY_EXTERNAL in metadata else {}
    try:
        classes = tuple(map(str, meta.decode(metadata, meta.KEY_CLASSES, path)))
        preprocess = Preprocess.from_json(meta.decode(metadata, meta.KEY_PREPROCESS, path))
        golden = Golden.from_json(meta.decode(metadata, meta.KEY_GOLDEN, path))
        actual = meta.digest_parts(model, metadata)
        checks = [
            _check_seal(content),
            _check_preprocess(model, preprocess, metadata, recorded["preprocess"] == actual["preprocess"]),
            _check_classes(classes, recorded["classes"] == actual["classes"]),
            _check_initialisers(model, recorded["initialisers"], actual["initialisers"]),
            *(_check_external(Path(path), name, digest) for name, digest in external.items()),
            _check(
                "nodes",
                recorded["nodes"] == actual["nodes"],
                f"{len(model.graph.node)} nodes",
                "nodes, inputs, outputs, versions or texts of the graph were changed, added or removed",
            ),
            _check_precision(model, meta.decode(metadata, meta.KEY_PRECISION, path)["name"]),
            _check(
                "metadata",
                recorded["metadata"] == actual["metadata"] and recorded["golden"] == actual["golden"],
                f"{len(metadata)} entries",
                "golden inputs, or another entry of the metadata, were changed after the file was written",
            ),
        ]
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ZooError(f"`{path}` is damaged: its metadata cannot be read", hint="export the run again") from error
    try:
        predictor = open_file(path, device)
    except ZooError:
        if all(check.passed for check in checks):
            raise  # the file is intact, so the device or the runtime is at fault
        failed = Check(name="golden inputs", passed=False, detail="onnxruntime cannot load the changed file")
        return [*checks, failed]
    try:
        checks.append(check_golden(golden, classes, predictor.answers))
        return [*checks, _check_batches(predictor, golden.tolerance, golden.unknown_tolerance)]
    except ZooError as error:
        return [*checks, Check(name="golden inputs", passed=False, detail=error.message)]
    except Exception as error:  # from onnxruntime, for a graph that loads but does not run
        said = quoted(error)
        return [*checks, Check(name="golden inputs", passed=False, detail=f"the graph does not run: {said}")]


def golden(path: Path) -> Golden:
    """The golden logits that a file records.

    Raises:
        ZooError: the file cannot be read, was not written by zoo or is too new.
    """
    try:
        metadata = meta.read(onnx.load(str(path), load_external_data=False))
    except Exception as error:  # OSError, or one of protobuf's two classes DecodeError
        raise _no_onnx(path) from error
    meta.check_readable(metadata, path)
    try:
        return Golden.from_json(meta.decode(metadata, meta.KEY_GOLDEN, path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ZooError(f"`{path}` is damaged: its metadata cannot be read", hint="export the run again") from error


def _no_onnx(path: Path) -> ZooError:
    return ZooError(f"`{path}` is not an ONNX file, or is truncated", hint="copy it again, or export the run again")


def _check(name: str, passed: bool, held: str, broken: str) -> Check:
    return Check(name=name, passed=passed, detail=held if passed else broken)


def _check_seal(content: bytes) -> Check:
    found = meta.read_seal(content)
    if found is None:
        return Check(name="integrity", passed=False, detail=f"the file has no `{meta.KEY_SHA256}`, or more than one")
    recorded, actual = found
    return _check(
        "integrity",
        recorded == actual,
        f"SHA-256 {actual[:16]}",
        f"the file was changed after it was written: SHA-256 {actual[:16]}, recorded {recorded[:16]}",
    )


def _check_preprocess(
    model: onnx.ModelProto, preprocess: Preprocess, metadata: Mapping[str, str], untouched: bool
) -> Check:
    """Check that the recorded preprocessing is unchanged, and that the graph implements it."""

    def failed(detail: str) -> Check:
        return Check(name="preprocessing", passed=False, detail=detail)

    inside = metadata.get(meta.KEY_PREPROCESSING, "graph") == "graph"
    part = build_preprocessing(preprocess) if inside else Preprocessing()
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in part.constants}
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.startswith(PREFIX)
    }
    for name, what in ((MEAN, "mean"), (STD, "std")) if inside else ():
        if name not in found or not np.array_equal(found[name], wanted[name]):
            return failed(
                f"the graph's {what} {_numbers(found.get(name))} differs from the record {_numbers(wanted[name])}"
            )
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted or not np.array_equal(found[name], wanted[name]):
            return failed(
                f"the graph's `{name}` {_numbers(found.get(name))} differs from the record {_numbers(wanted.get(name))}"
            )
    nodes = [node for node in model.graph.node if node.name.startswith(PREFIX)]
    for mine, other in zip(part.nodes, nodes, strict=False):
        if mine.SerializeToString(deterministic=True) != other.SerializeToString(deterministic=True):
            return failed(f"the graph's node `{mine.name}` does not match the recorded preprocessing")
    if len(nodes) != len(part.nodes):
        return failed(f"the graph has {len(nodes)} preprocessing nodes, the recorded preprocessing {len(part.nodes)}")
    if not untouched:
        return failed("the recorded preprocessing was changed after the file was written")
    said = "the graph matches its record" if inside else "outside of the file, as recorded"
    return Check(name="preprocessing", passed=True, detail=f"{said}: {preprocess}")


def _check_external(path: Path, name: str, digest: str) -> Check:
    beside = path.with_name(Path(name).name)
    if not beside.is_file():
        return Check(name="weights", passed=False, detail=f"`{beside.name}` is missing beside the file")
    return _check(
        "weights", digest_of_file(beside) == digest, f"SHA-256 {digest[:16]} of {name}", f"`{name}` was changed"
    )


def _numbers(array: Any) -> str:
    return "(none)" if array is None else "(" + ", ".join(f"{value:.6g}" for value in np.ravel(array)) + ")"


def _check_classes(classes: tuple[str, ...], untouched: bool) -> Check:
    return _check(
        "classes",
        untouched,
        f"{len(classes)} names",
        "class names or their order were changed after the file was written: "
        + ", ".join(f"`{name}`" for name in classes[:5])
        + (", ..." if len(classes) > 5 else ""),
    )


def _check_batches(predictor: OnnxPredictor, tolerance: float, scores_tolerance: float) -> Check:
    """Check that logits are the same alone and in a batch of seven, so that no image affects another."""
    small = golden_photographs()["small"]
    turned = [np.ascontiguousarray(np.rot90(small, 2 * turn)[:, ::flip]) for turn in (0, 1) for flip in (1, -1)]
    seven = [*turned, *turned[:3]]
    each, together = [predictor.answers([one]) for one in seven], predictor.answers(seven)
    alone = np.concatenate([one.logits for one in each])
    apart = float(np.nan_to_num(np.abs(together.logits - alone), nan=np.inf).max())
    figures = f"logits alone and in a batch of 7 differ by {apart:.2g} (tolerance {tolerance:.2g})"
    if together.unknown is None or apart > tolerance:
        return _check("batches", apart <= tolerance, figures, figures)
    scores = np.array([one.unknown for one in each]).ravel()
    apart = float(score_differences(scores, together.unknown).max())
    figures += f", scores of unknown images by {apart:.2g} (tolerance {scores_tolerance:.2g})"
    return _check("batches", apart <= scores_tolerance, figures, figures)


def _check_precision(model: onnx.ModelProto, name: str) -> Check:
    """Check that the graph has the recorded precision, and that int8 has static scales, which depthwise layers need."""
    kinds = {node.op_type for node in model.graph.node}
    made_up = sorted(kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
    if made_up:
        detail = f"`{made_up[0]}` computes its scales at run time (dynamic quantisation), which zoo never writes"
        return Check(name="precision", passed=False, detail=detail)
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    found = "int8" if "QuantizeLinear" in kinds else "fp16" if halves else "fp32"
    told = _told_of_int8(model) if found == name == "int8" else name
    return _check("precision", found == name, told, f"the graph is in {found}, but {name} is recorded")


def _told_of_int8(model: onnx.ModelProto) -> str:
    """For which processors the weights prove that no kernel saturates."""
    pairs = largest_pairs(model)
    loose = can_saturate(pairs)
    if not loose:
        return f"int8, the same on {', '.join(PROCESSORS)}: no sum of two products leaves 16 bits"
    return (
        f"int8, for x86-64 with VNNI alone: without it, {len(loose)} of {len(pairs)} layers can saturate, first "
        f"`{loose[0]}`; export the run again for all processors"
    )


def _check_initialisers(model: onnx.ModelProto, recorded: Mapping[str, str], actual: Mapping[str, str]) -> Check:
    if len(model.graph.initializer) != len(actual):
        return Check(name="weights", passed=False, detail="two initialisers have the same name")
    changed = [name for name in recorded if name in actual and recorded[name] != actual[name]]
    gone, new = [name for name in recorded if name not in actual], [name for name in actual if name not in recorded]
    for what, names in (("was changed", changed), ("is missing", gone), ("was added", new)):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            return Check(name="weights", passed=False, detail=f"initialiser `{names[0]}` {what}{more}")
    return Check(name="weights", passed=True, detail=f"{len(actual)} initialisers")
