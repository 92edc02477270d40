"""Core ML packages: a folder with the program and its weights; our record is in the program's metadata.

The program takes one normalised image, `pixels` (1, 3, h, w), and gives `logits` (1, classes); Pillow does the
preprocessing, as in the run. Only macOS executes such files. Elsewhere what is written is read back, and its weights
are compared with the network's: that shows that they are whole, and not that the program computes the same.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import logging
import sys
import traceback
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.image import normalise, pixels
from zoo.errors import UsageError, ZooError, quoted
from zoo.exporter import Check, ExportSpec
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.preprocess import Preprocess, height_width
from zoo.storage.files import SCHEMA, check_schema, json_text

INPUT, OUTPUT = "pixels", "logits"
KEY = "zoo.record"  # of the record in the program's metadata
BLANK = "0" * 64
PROGRAM = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MANIFEST = Path("Manifest.json")
INSTALL = "`pip install 'backbone-zoo[coreml]'`"
MACOS_ONLY = "Core ML runs on macOS only"


@dataclass(frozen=True)
class CoremlPredictor:
    """A `zoo.predictor.Predictor`: Pillow does the preprocessing, Core ML computes the logits on the CPU."""

    model: Any
    classes: tuple[str, ...]
    preprocess: Preprocess

    @property
    def device(self) -> str:
        return "Core ML CPU"

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        for place, photograph in enumerate(photographs):
            seen = normalise(pixels(photograph, self.preprocess)[None], self.preprocess)
            try:
                found[place] = self.model.predict({INPUT: seen})[OUTPUT][0]
            except RuntimeError as error:
                raise ZooError(f"Core ML does not run the file: {quoted(error)}") from error
        return found


def why_not_executable() -> str | None:
    """Why Core ML files cannot be executed on this machine; None where they can."""
    return None if sys.platform == "darwin" else MACOS_ONLY


def coremltools() -> Any:
    """Import coremltools, which tells of missing parts and of newer libraries while it is imported.

    Raises:
        ZooError: it is not installed.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("coremltools")
    except ImportError as error:
        raise ZooError(f"coremltools is not installed: {quoted(error)}", hint=INSTALL) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and the progress bars of coremltools."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold temporary folders
            raise
        finally:
            gc.collect()  # coremltools leaves temporary folders to the collector, which warns of each


def write(spec: ExportSpec) -> None:
    """Export the network to the package `spec.file`, and compare the weights in it with the network's.

    Raises:
        ZooError: coremltools is not installed, the network cannot be converted, or weights are not in the package.
    """
    tools = coremltools()
    from zoo_coreml.weights import expected_weights, missing_weight, traced
    from zoo_onnx.write import torch_logits

    program = traced(spec.model, height_width(spec.preprocess.crop))
    expected = expected_weights(program)
    try:
        with _quiet():
            model = tools.convert(
                program.run_decompositions({}),
                outputs=[tools.TensorType(name=OUTPUT)],
                minimum_deployment_target=tools.target.iOS16,
                compute_precision=tools.precision.FLOAT32,
                skip_model_load=True,
            )
            described = model.get_spec()
            tools.utils.rename_feature(described, described.description.input[0].name, INPUT)
            described.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
            golden = Golden.of(spec.classes, torch_logits(spec, list(golden_photographs().values())))
            record = {
                "schema": SCHEMA,
                "classes": list(spec.classes),
                "preprocess": spec.preprocess.to_json(),
                "metadata": spec.metadata,
                "golden": golden.to_json(),
                "parity": {"compared": False},
            }
            described.description.metadata.userDefined[KEY] = json_text(record, ascii_only=True)
            tools.models.MLModel(described, weights_dir=model.weights_dir, skip_model_load=True).save(str(spec.file))
    except OSError as error:
        raise ZooError(f"`{spec.file}` cannot be written: {error.strerror or error}") from error
    except ZooError:
        raise
    except Exception as error:  # coremltools raises exceptions of any type
        raise ZooError(
            f"the network cannot be converted to Core ML: {type(error).__name__}: {quoted(error)}",
            hint="`zoo export --to onnx` supports more networks",
        ) from error
    _fix_manifest(spec.file / MANIFEST)
    _save_record(spec.file, {**record, "weights_sha256": _digest((spec.file / WEIGHTS).read_bytes())})
    lost = missing_weight(expected, constants(spec.file))
    if lost is not None:
        raise ZooError(
            f"the weight `{lost}` of the network is not in the Core ML package",
            hint="`zoo export --to onnx` supports more networks",
        )


def constants(path: Path) -> list[npt.NDArray[Any]]:
    """The constants of a package's program, weights among them, as they are read back from its files.

    Raises:
        ZooError: the program cannot be read.
    """
    described = _described(path)
    try:
        load = importlib.import_module("coremltools.converters.mil.frontend.milproto.load").load
        with _quiet():
            program = load(described, described.specificationVersion, str((path / WEIGHTS).parent))
    except Exception as error:  # coremltools raises exceptions of any type
        raise ZooError(f"`{path}` is damaged: its program cannot be read: {quoted(error)}") from error
    found = [one.val.val for one in program.functions["main"].operations if one.op_type == "const"]
    return [np.asarray(one) for one in found if not isinstance(one, str)]


def _fix_manifest(file: Path) -> None:
    """Derive the identifiers in the manifest from what they name, so that two exports of one run are equal."""
    manifest = json.loads(file.read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    keys = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for key, entry in entries.items()}
    ordered = {keys[key]: entries[key] for key in sorted(keys, key=keys.__getitem__)}
    root = keys[manifest["rootModelIdentifier"]]
    file.write_text(json_text({**manifest, "itemInfoEntries": ordered, "rootModelIdentifier": root}), encoding="utf-8")


def _save_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record into a package's program, with a seal: the SHA-256 of the program with zeros in its place."""
    described = _described(path)
    described.description.metadata.userDefined[KEY] = json_text({**record, "sha256": BLANK}, ascii_only=True)
    content = described.SerializeToString(deterministic=True)
    assert content.count(BLANK.encode()) == 1
    (path / PROGRAM).write_bytes(content.replace(BLANK.encode(), _digest(content).encode()))


def annotate(path: Path, parity: dict[str, Any]) -> None:
    """Record in a package how much it differs from its run, or that it was not compared, and renew its seal."""
    _save_record(path, {**read_record(path), "parity": parity})


def _described(path: Path) -> Any:
    """A package's program, as the message of its format.

    Raises:
        ZooError: it is no package, or damaged.
    """
    try:
        with _quiet():
            return coremltools().utils.load_spec(str(path / PROGRAM))
    except ZooError:
        raise
    except Exception as error:  # OSError, or one of protobuf's
        raise ZooError(
            f"`{path}` is not a Core ML package, or is damaged", hint="copy the whole folder, or export the run again"
        ) from error


def read_record(path: Path) -> dict[str, Any]:
    """The record of a package.

    Raises:
        ZooError: it is missing, damaged, not written by zoo, or of a newer schema; or coremltools is not installed.
    """
    metadata = _described(path).description.metadata.userDefined
    if KEY not in metadata:
        raise ZooError(f"`{path}` was not written by zoo: it has no record")
    try:
        record: dict[str, Any] = json.loads(metadata[KEY])
        schema = record["schema"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    check_schema(schema, path)
    return record


def open_file(path: Path, device: str) -> CoremlPredictor:
    """Open a package on `auto` or `cpu`, on macOS.

    Raises:
        UsageError: another device.
        ZooError: this is no macOS; the package is missing, damaged, not written by zoo or too new; or coremltools is
            not installed.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"Core ML files run on the CPU here, not on `{device}`", hint="pass `--device cpu`")
    reason = why_not_executable()
    if reason is not None:
        raise ZooError(f"`{path}` cannot be opened: {reason}", hint="`zoo verify` checks what can be checked elsewhere")
    record = read_record(path)
    tools = coremltools()
    try:
        classes, preprocess = tuple(map(str, record["classes"])), Preprocess.from_json(record["preprocess"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    # the CPU computes in fp32, as the run was evaluated; the neural engine computes in fp16
    return CoremlPredictor(
        tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY), classes, preprocess
    )


def verify(path: Path, device: str) -> list[Check]:
    """Check the integrity of program and weights, and input and output; on macOS also the golden inputs.

    Raises:
        ZooError: the package cannot be read, was not written by zoo or is too new; or coremltools is not installed.
    """
    record = read_record(path)
    try:
        content, weights = (path / PROGRAM).read_bytes(), (path / WEIGHTS).read_bytes()
        golden, classes = Golden.from_json(record["golden"]), [str(name) for name in record["classes"]]
        preprocess = Preprocess.from_json(record["preprocess"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    sealed = str(record.get("sha256", BLANK))
    found = (
        ("integrity", _digest(content.replace(sealed.encode(), BLANK.encode())) == sealed, "program and record"),
        ("weights", _digest(weights) == record.get("weights_sha256"), "weights"),
    )
    checks = [
        Check(name=name, passed=same, detail=what if same else f"{what} were changed after the file was written")
        for name, same, what in found
    ]
    if not all(check.passed for check in checks):
        return checks
    checks.append(_check_interface(_described(path), preprocess, len(classes)))
    checks.append(Check(name="program", passed=True, detail=f"{len(constants(path))} constants"))
    reason = why_not_executable()
    if reason is not None:
        return [*checks, Check(name="golden inputs", passed=False, skipped=True, detail=f"not compared: {reason}")]
    predictor = open_file(path, device)
    return [*checks, check_golden(golden, predictor.classes, predictor.logits)]


def _check_interface(described: Any, preprocess: Preprocess, classes: int) -> Check:
    """Check names and shapes of the program's input and output."""
    found = {
        one.name: tuple(one.type.multiArrayType.shape)
        for one in (*described.description.input, *described.description.output)
    }
    wanted = {INPUT: (1, 3, *preprocess.input_size), OUTPUT: (1, classes)}
    said = ", ".join(f"{name} {shape}" for name, shape in found.items())
    return Check(name="interface", passed=found == wanted, detail=said)


def _damaged(path: Path) -> ZooError:
    return ZooError(f"`{path}` is damaged: its record cannot be read", hint="export the run again")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
