"""A file that was tampered with fails by its own message, with the seal as it was and with the seal renewed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from messages import refused
from onnx import ModelProto, helper, numpy_helper
from small_export import CLASSES, PREPROCESS

from zoo.errors import ZooError
from zoo.exporter import ExportSpec
from zoo.preprocess import Preprocess
from zoo_onnx import metadata as meta
from zoo_onnx.preprocessing import MEAN, STD, build_preprocessing
from zoo_onnx.verify import verify

CHECKS = [
    "integrity",
    "preprocessing",
    "classes",
    "weights",
    "nodes",
    "precision",
    "metadata",
    "golden inputs",
    "batches",
]


def set_metadata(model: ModelProto, key: str, value: str) -> None:
    next(entry for entry in model.metadata_props if entry.key == key).value = value


def set_constant(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def change_mean(model: ModelProto) -> None:
    set_constant(model, MEAN, lambda mean: mean + np.float32(0.1))


def change_std(model: ModelProto) -> None:
    set_constant(model, STD, lambda std: std * np.float32(1.2))


def change_crop(model: ModelProto) -> None:
    set_constant(model, "preprocess/resize", lambda resize: resize + 4)


def change_filter(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Resize")
    next(attribute for attribute in node.attribute if attribute.name == "antialias").i = 0


def change_mean_in_record(model: ModelProto) -> None:
    record = {**PREPROCESS.to_json(), "mean": [0.5, 0.5, 0.5]}
    set_metadata(model, meta.KEY_PREPROCESS, json.dumps(record))


def widen_tolerance(model: ModelProto) -> None:
    golden = json.loads(meta.read(model)[meta.KEY_GOLDEN])
    set_metadata(model, meta.KEY_GOLDEN, json.dumps({**golden, "tolerance": 1e9}))


def swap_probabilities(model: ModelProto) -> None:
    """Logits stay as they were, which is all that a comparison of logits sees."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax" and "probabilities" in node.output)
    softmax.output[0] = "unswapped"
    order = np.arange(len(CLASSES))[::-1].copy()
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(helper.make_node("Gather", ["unswapped", "order"], ["probabilities"], axis=1))


def second_value(model: ModelProto) -> None:
    """Values beside the raw ones, of which a reader may take either."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    tensor.float_data.extend((-numpy_helper.to_array(tensor)).ravel().tolist())


def twin_first(model: ModelProto) -> None:
    """The wrong one first, the right one last, of which a table by name holds the last."""
    right = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    wrong = numpy_helper.from_array(numpy_helper.to_array(right) * np.float32(1.002), "head.weight")
    model.graph.initializer.insert(0, wrong)


def lie_about_precision(model: ModelProto) -> None:
    set_metadata(model, meta.KEY_PRECISION, json.dumps({"name": "int8", "max_drop": 0.5}))


def change_mean_everywhere(model: ModelProto) -> None:
    mean = [value + 0.1 for value in PREPROCESS.mean]
    set_constant(model, MEAN, lambda old: np.asarray(mean, old.dtype).reshape(old.shape))
    set_metadata(model, meta.KEY_PREPROCESS, json.dumps({**PREPROCESS.to_json(), "mean": mean}))


def change_class_order(model: ModelProto) -> None:
    set_metadata(model, meta.KEY_CLASSES, json.dumps([CLASSES[0], CLASSES[2], CLASSES[1]]))


def change_class_name(model: ModelProto) -> None:
    set_metadata(model, meta.KEY_CLASSES, json.dumps([*CLASSES[:2], "hornets"]))


def change_weight(model: ModelProto) -> None:
    def flip(weight: np.ndarray) -> np.ndarray:
        weight[0] = -weight[0]
        return weight

    set_constant(model, "head.weight", flip)


def change_one_bit(model: ModelProto) -> None:
    def nudge(weight: np.ndarray) -> np.ndarray:
        weight.reshape(-1)[0] = np.nextafter(weight.reshape(-1)[0], np.float32(10))
        return weight

    set_constant(model, "head.weight", nudge)


def add_node(model: ModelProto) -> None:
    softmax = model.graph.node[-1]
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Neg", ["logits"], ["turned"]))
    softmax.input[0] = "turned"


def change_license(model: ModelProto) -> None:
    set_metadata(model, "zoo.license", "CC0")


def tampered(spec: ExportSpec, folder: Path, change: Callable[[ModelProto], None], renew: str) -> dict[str, str]:
    """The failing checks of a changed copy, with their messages. `renew`: nothing, the seal, or every digest."""
    model = onnx.load(spec.file)
    change(model)
    if renew in ("seal", "digests"):
        kept = [entry for entry in model.metadata_props if entry.key != meta.KEY_SHA256]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        if renew == "digests":
            set_metadata(model, meta.KEY_DIGESTS, json.dumps(meta.digest_parts(model, meta.read(model))))
        content = meta.seal(model)
    else:
        content = model.SerializeToString()
    file = folder / "tampered.onnx"
    file.write_bytes(content)
    checks = verify(file, "cpu")
    # a file that does not run is asked for no batches
    assert [check.name for check in checks] == CHECKS[: len(checks)] and len(checks) >= len(CHECKS) - 1
    return {check.name: check.detail for check in checks if not check.passed}


def test_sound_file_passes(onnx_spec: ExportSpec) -> None:
    checks = verify(onnx_spec.file, "cpu")
    assert [check.name for check in checks] == CHECKS
    assert all(check.passed for check in checks), checks


def test_tampering_helper_changes_nothing_by_itself(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    for renew in ("nothing", "seal", "digests"):
        assert tampered(onnx_spec, tmp_path, lambda model: None, renew) == {}


TAMPERINGS = [
    (change_mean, "preprocessing", "mean (0.585, 0.556, 0.506)"),
    (change_std, "preprocessing", "std"),
    (change_crop, "preprocessing", "`preprocess/resize` (44)"),
    (change_filter, "preprocessing", "node `preprocess/resized`"),
    (change_mean_in_record, "preprocessing", "mean (0.485, 0.456, 0.406)"),
    (change_mean_everywhere, "preprocessing", "recorded preprocessing was changed"),
    (change_class_order, "classes", "written: `ants`"),
    (change_class_name, "classes", "class names"),
    (change_weight, "weights", "initialiser `head.weight` was changed"),
    (change_one_bit, "weights", "initialiser `head.weight` was changed"),
    (add_node, "nodes", "changed, added or removed"),
    (change_license, "metadata", "golden inputs, or another entry of the metadata"),
    (widen_tolerance, "metadata", "golden inputs, or another entry of the metadata"),
    (swap_probabilities, "nodes", "changed, added or removed"),
    (second_value, "weights", "initialiser `head.weight` was changed"),
    (twin_first, "weights", "two initialisers"),
    (lie_about_precision, "precision", "fp32, but int8"),
]


@pytest.mark.parametrize(("change", "check", "message"), TAMPERINGS, ids=lambda value: getattr(value, "__name__", None))
def test_tampering_is_named(
    onnx_spec: ExportSpec, tmp_path: Path, change: Callable[[ModelProto], None], check: str, message: str
) -> None:
    failed = tampered(onnx_spec, tmp_path, change, "nothing")
    assert message in failed[check]
    assert "was changed after it was written" in failed["integrity"]


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [case for case in TAMPERINGS if case[1] != "integrity"],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_tampering_is_named_when_the_seal_was_renewed(
    onnx_spec: ExportSpec, tmp_path: Path, change: Callable[[ModelProto], None], check: str, message: str
) -> None:
    failed = tampered(onnx_spec, tmp_path, change, "seal")
    assert "integrity" not in failed
    assert message in failed[check]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_mean_everywhere, "the logits of golden input"),
        (change_weight, "the logits of golden input"),
        (change_class_order, "the class order differs from the golden inputs': class 1 is `wasps`, was `bees`"),
        (change_class_name, "the class names are not those of the golden inputs: `hornets`"),
        (swap_probabilities, "the file's `probabilities` are not the softmax of its `logits`"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_golden_inputs_find_changes_with_renewed_digests(
    onnx_spec: ExportSpec, tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    failed = tampered(onnx_spec, tmp_path, change, "digests")
    assert list(failed) == ["golden inputs"]
    assert failed["golden inputs"].startswith(message)


def pin_the_batch(model: ModelProto) -> None:
    """The first photograph's logits for all of a batch; one alone is right."""
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "unpinned"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nought"))
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["unpinned", "first"], ["one"], axis=0),
            helper.make_node("Mul", ["unpinned", "nought"], ["zeros"]),
            helper.make_node("Add", ["zeros", "one"], ["logits"]),
        ]
    )
    order = [node for node in model.graph.node if "probabilities" not in node.output]
    last = [node for node in model.graph.node if "probabilities" in node.output]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*order, *last)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def test_images_that_affect_each_other_in_a_batch_are_found(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    failed = tampered(onnx_spec, tmp_path, pin_the_batch, "digests")
    assert list(failed) == ["batches"] and "in a batch of 7 differ by" in failed["batches"]


def test_one_flipped_byte_anywhere_is_found(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    content = onnx_spec.file.read_bytes()
    file = tmp_path / "flipped.onnx"
    for place in np.linspace(0, len(content) - 1, 60).astype(int):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            checks = verify(file, "cpu")
        except ZooError:
            continue  # no longer an ONNX file of ours
        assert not all(check.passed for check in checks), f"byte {place} was changed unnoticed"


def test_second_seal_is_refused(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    """Otherwise the digest could be taken from one place and zeroed in another."""
    model = onnx.load(onnx_spec.file)
    entry = model.metadata_props.add()
    entry.key, entry.value = meta.KEY_SHA256, "1" * 64
    file = tmp_path / "two.onnx"
    file.write_bytes(model.SerializeToString())
    with refused(ZooError, "`zoo.sha256`", "twice"):
        verify(file, "cpu")


def test_seal_is_the_digest_of_the_file_with_its_digest_zeroed(onnx_spec: ExportSpec) -> None:
    """As `docs/reference/exported-file.md` tells others to compute it."""
    import hashlib

    content = onnx_spec.file.read_bytes()
    recorded = meta.read(onnx.load_from_string(content))["zoo.sha256"]
    assert content.count(recorded.encode()) == 1
    assert hashlib.sha256(content.replace(recorded.encode(), b"0" * 64)).hexdigest() == recorded


@pytest.mark.parametrize("length", [0, 10, 1000, -1000, -1])
def test_file_cut_short(onnx_spec: ExportSpec, tmp_path: Path, length: int) -> None:
    file = tmp_path / "short.onnx"
    file.write_bytes(onnx_spec.file.read_bytes()[:length])
    with pytest.raises(ZooError):
        verify(file, "cpu")


def test_file_of_other_making(tmp_path: Path) -> None:
    part = build_preprocessing(Preprocess())
    from zoo_onnx.preprocessing import photographs_value, pixels_value

    graph = helper.make_graph(part.nodes, "g", [photographs_value()], [pixels_value(Preprocess())], part.constants)
    file = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    with refused(ZooError, "other.onnx`", "`zoo.schema`"):
        verify(file, "cpu")


def test_newer_schema_is_refused_by_name(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    model = onnx.load(onnx_spec.file)
    set_metadata(model, meta.KEY_SCHEMA, "2")
    file = tmp_path / "newer.onnx"
    onnx.save(model, file)
    with refused(ZooError, "newer.onnx`", "schema 2", "1"):
        verify(file, "cpu")


@pytest.mark.parametrize("key", [meta.KEY_CLASSES, meta.KEY_PREPROCESS, meta.KEY_GOLDEN, meta.KEY_DIGESTS])
@pytest.mark.parametrize("value", ["", "7", "{}", "[1]", '{"a": 1}', "null"])
def test_damaged_metadata_is_a_zoo_error(onnx_spec: ExportSpec, tmp_path: Path, key: str, value: str) -> None:
    model = onnx.load(onnx_spec.file)
    set_metadata(model, key, value)
    file = tmp_path / "damaged.onnx"
    onnx.save(model, file)
    try:
        checks = verify(file, "cpu")
    except ZooError:
        return
    assert not all(check.passed for check in checks)


def test_verify_imports_no_torch(onnx_spec: ExportSpec, tmp_path: Path) -> None:
    """Copied to a machine without the run, in a fresh process."""
    file = tmp_path / "elsewhere.onnx"
    shutil.copy(onnx_spec.file, file)
    program = (
        "import sys; from pathlib import Path; from zoo_onnx.verify import verify\n"
        f"assert all(check.passed for check in verify(Path({str(file)!r}), 'cpu'))\n"
        "heavy = {'torch', 'torchvision', 'timm', 'onnxscript'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
