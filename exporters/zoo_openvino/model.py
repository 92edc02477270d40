"""OpenVINO IR: `model.xml` holds the graph and our record in its runtime information, `model.bin` holds the weights.

The file takes normalised pixels; Pillow does the preprocessing, as in the run. The network is converted from the output
of the ONNX exporter, which compares it with torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
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
from zoo.preprocess import Preprocess
from zoo.storage.files import SCHEMA, check_schema, json_text, write_bytes

PLACE = ["zoo", "record"]  # path of the record in the model's runtime information
BLANK = "0" * 64
MAX_BATCH = 32  # photographs in a batch
INSTALL = "`pip install 'backbone-zoo[openvino]'`"


@dataclass(frozen=True)
class OpenvinoPredictor:
    """A `zoo.predictor.Predictor`: Pillow does the preprocessing, OpenVINO computes the logits on the CPU."""

    network: Any
    classes: tuple[str, ...]
    preprocess: Preprocess

    @property
    def device(self) -> str:
        return "OpenVINO CPU"

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        for start in range(0, len(photographs), MAX_BATCH):
            seen = np.stack([pixels(one, self.preprocess) for one in photographs[start : start + MAX_BATCH]])
            try:
                found[start : start + len(seen)] = self.network(normalise(seen, self.preprocess))[0]
            except RuntimeError as error:  # the base class of OpenVINO's exceptions
                raise ZooError(f"the file does not run on a batch of {len(seen)}: {quoted(error)}") from error
        return found


def openvino() -> Any:
    """Import OpenVINO.

    Raises:
        ZooError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ZooError("OpenVINO is not installed", hint=INSTALL) from error
    return openvino


def compile_network(model: Any, threads: int | None = None, precision: str = "f32") -> Any:
    """Compile a model for the CPU in `f32` or `bf16`; OpenVINO's default is bf16 if the processor supports it."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return openvino().compile_model(model, "CPU", settings)


def write(spec: ExportSpec) -> None:
    """Export the network to `spec.file`, with its weights in a file beside it.

    Raises:
        ZooError: OpenVINO is not installed, the network cannot be converted, or the files cannot be written.
    """
    ov = openvino()
    from zoo_onnx.network import export_network
    from zoo_onnx.write import torch_logits

    network = export_network(spec.model, spec.preprocess.crop).model
    plain = spec.file.with_suffix(".onnx")
    try:
        plain.write_bytes(network.SerializeToString())
        model = ov.convert_model(plain)
        _number_made_up_names(model)
        golden = Golden.of(spec.classes, torch_logits(spec, list(golden_photographs().values())))
        record = {
            "schema": SCHEMA,
            "classes": list(spec.classes),
            "preprocess": spec.preprocess.to_json(),
            "metadata": spec.metadata,
            "golden": golden.to_json(),
        }
        # The record needs the digest of the weights, so both files are written, and then again with the record
        ov.save_model(model, spec.file, compress_to_fp16=False)
        record["weights_sha256"] = _digest(spec.file.with_suffix(".bin").read_bytes())
        _save(model, record, spec.file)
    except OSError as error:
        raise ZooError(f"`{spec.file}` cannot be written: {error.strerror or error}") from error
    except RuntimeError as error:  # the base class of OpenVINO's exceptions
        raise ZooError(f"the network cannot be converted to OpenVINO: {quoted(error)}") from error
    finally:
        plain.unlink(missing_ok=True)


def _number_made_up_names(model: Any) -> None:
    """Name nodes such as `Reshape_19242` by their place: OpenVINO's number is of a counter of the whole process."""
    for place, node in enumerate(model.get_ordered_ops()):
        found = re.fullmatch(r"([A-Z][A-Za-z]*)_\d+", node.get_friendly_name())
        if found is not None:
            node.set_friendly_name(f"{found[1]}_{place}")


def _save(model: Any, record: dict[str, Any], file: Path) -> None:
    """Write both files, with the record and its seal in the `.xml` file."""
    model.set_rt_info(json_text({**record, "sha256": BLANK}, ascii_only=True), PLACE)
    openvino().save_model(model, file, compress_to_fp16=False)
    content = file.read_bytes()
    assert content.count(BLANK.encode()) == 1
    write_bytes(file, content.replace(BLANK.encode(), _digest(content).encode()))


def annotate(file: Path, parity: dict[str, Any]) -> None:
    """Record in a file how much it differs from its run, and renew its seal."""
    model, record = read_file(file)
    beside = file.with_suffix(".again.xml")  # the weights are memory-mapped from the file to be replaced
    _save(model, {**record, "parity": parity}, beside)
    del model
    beside.with_suffix(".bin").replace(file.with_suffix(".bin"))
    beside.replace(file)


def open_file(path: Path, device: str) -> OpenvinoPredictor:
    """Open an IR on `auto` or `cpu`.

    Raises:
        UsageError: another device.
        ZooError: the file is missing, damaged, not written by zoo or too new; or OpenVINO is not installed.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"OpenVINO files run on the CPU, not on `{device}`", hint="pass `--device cpu`")
    model, record = read_file(path)
    try:
        classes, preprocess = tuple(map(str, record["classes"])), Preprocess.from_json(record["preprocess"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    return OpenvinoPredictor(compile_network(model), classes, preprocess)


def read_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a model and its record.

    Raises:
        ZooError: the file is missing, damaged, not written by zoo, or of a newer schema.
    """
    try:
        model = openvino().Core().read_model(path)
    except RuntimeError as error:
        raise ZooError(
            f"`{path}` is not an OpenVINO file, or its `.bin` file is missing",
            hint="copy both, or export the run again",
        ) from error
    if not model.has_rt_info(PLACE):
        raise ZooError(f"`{path}` was not written by zoo: it has no record")
    try:
        record: dict[str, Any] = json.loads(str(model.get_rt_info(PLACE).astype(str)))
        schema = record["schema"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    check_schema(schema, path)
    return model, record


def _damaged(path: Path) -> ZooError:
    return ZooError(f"`{path}` is damaged: its record cannot be read", hint="export the run again")


def verify(path: Path, device: str) -> list[Check]:
    """Check the integrity of graph and weights, then the golden inputs.

    Raises:
        ZooError: the file cannot be read, was not written by zoo or is too new; or OpenVINO is not installed.
    """
    _, record = read_file(path)
    content, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    sealed = str(record.get("sha256", BLANK))
    found = (
        ("integrity", _digest(content.replace(sealed.encode(), BLANK.encode())) == sealed, "graph and record"),
        ("weights", _digest(weights) == record.get("weights_sha256"), "weights"),
    )
    checks = [
        Check(name=name, passed=same, detail=what if same else f"{what} were changed after the file was written")
        for name, same, what in found
    ]
    predictor = open_file(path, device)
    return [*checks, check_golden(_golden_of(record, path), predictor.classes, predictor.logits)]


def golden(path: Path) -> Golden:
    """The golden logits that a file records.

    Raises:
        ZooError: as `read_file`.
    """
    return _golden_of(read_file(path)[1], path)


def _golden_of(record: dict[str, Any], path: Path) -> Golden:
    try:
        return Golden.from_json(record["golden"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
