"""OpenVINO IR: `model.xml` holds the graph and a record of ours in its runtime information, `model.bin` the weights.

The file takes normalised pixels; photographs are prepared by Pillow, as in the run. The network comes out of the ONNX
exporter, so that what was compared with torch there is what is converted.
"""

from __future__ import annotations

import hashlib
import json
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
from zoo.storage.files import SCHEMA, check_schema, write_bytes

PLACE = ["zoo", "record"]  # in the model's runtime information
BLANK = "0" * 64
MAX_BATCH = 32  # photographs predicted together
INSTALL = "`pip install 'backbone-zoo[openvino]'`"


@dataclass(frozen=True)
class OpenvinoPredictor:
    """A `zoo.predictor.Predictor`: Pillow prepares, OpenVINO predicts on the CPU."""

    network: Any
    classes: tuple[str, ...]
    preprocess: Preprocess

    @property
    def device(self) -> str:
        return "OpenVINO CPU"

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        for start in range(0, len(photographs), MAX_BATCH):
            seen = np.stack([pixels(one, self.preprocess) for one in photographs[start : start + MAX_BATCH]])
            found[start : start + len(seen)] = self.network(normalise(seen, self.preprocess))[0]
        return found


def openvino() -> Any:
    """The library.

    Raises:
        ZooError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ZooError("OpenVINO is not installed", hint=INSTALL) from error
    return openvino


def compile_network(model: Any, threads: int | None = None) -> Any:
    """A model on the CPU in fp32, which is not what OpenVINO takes where the processor has bf16."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return openvino().compile_model(model, "CPU", settings)


def write(spec: ExportSpec) -> None:
    """Write `spec.file` and its weights beside it.

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
        golden = Golden.of(spec.classes, torch_logits(spec, list(golden_photographs().values())))
        record = {
            "schema": SCHEMA,
            "classes": list(spec.classes),
            "preprocess": spec.preprocess.to_json(),
            "metadata": spec.metadata,
            "golden": golden.to_json(),
        }
        # the weights' digest is known when they are written, and the record lies in the other file
        ov.save_model(model, spec.file, compress_to_fp16=False)
        record["weights_sha256"] = _digest(spec.file.with_suffix(".bin").read_bytes())
        _save(model, record, spec.file)
    except OSError as error:
        raise ZooError(f"`{spec.file}` cannot be written: {error.strerror or error}") from error
    except RuntimeError as error:  # OpenVINO's own have this base
        raise ZooError(f"the network cannot be converted to OpenVINO: {quoted(error)}") from error
    finally:
        plain.unlink(missing_ok=True)


def _save(model: Any, record: dict[str, Any], file: Path) -> None:
    """Write both files, the record in the first and sealed."""
    model.set_rt_info(json.dumps({**record, "sha256": BLANK}), PLACE)
    openvino().save_model(model, file, compress_to_fp16=False)
    content = file.read_bytes()
    assert content.count(BLANK.encode()) == 1
    write_bytes(file, content.replace(BLANK.encode(), _digest(content).encode()))


def annotate(file: Path, parity: dict[str, Any]) -> None:
    """Have a file say how far it lies from its run, and seal it anew."""
    model, record = read_file(file)
    beside = file.with_suffix(".again.xml")  # the weights are mapped from the file that would be written to
    _save(model, {**record, "parity": parity}, beside)
    del model
    beside.with_suffix(".bin").replace(file.with_suffix(".bin"))
    beside.replace(file)


def open_file(path: Path, device: str) -> OpenvinoPredictor:
    """Open an IR on `auto` or `cpu`.

    Raises:
        UsageError: another device.
        ZooError: the file is missing, damaged, not ours or too new; or OpenVINO is not installed.
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
    """The model and its record.

    Raises:
        ZooError: missing, damaged, not ours, or of a newer schema.
    """
    try:
        model = openvino().Core().read_model(path)
    except RuntimeError as error:
        raise ZooError(
            f"`{path}` is no OpenVINO file, or its weights do not lie beside it",
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
    """Integrity of graph and weights, then golden inputs.

    Raises:
        ZooError: the file cannot be read, is not ours or too new; or OpenVINO is not installed.
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
    try:
        golden = Golden.from_json(record["golden"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    return [*checks, check_golden(golden, predictor.classes, predictor.logits)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
