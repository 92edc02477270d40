"""PT2 archives: the network by `torch.export`, and beside it what it needs to be used and verified.

The archive is a zip. After torch has written it, one member is added, `extra/zoo.json`: schema, classes,
preprocessing, metadata, golden logits and the SHA-256 of every other member. Photographs are prepared by Pillow, as in
the run.

The format may hold pickles, which run code when they are read. None is written here, and an archive with one is
refused before torch sees it. torch still parses the graph's text: open files of others with the care due to programs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.data.image import normalise, pixels
from zoo.errors import ZooError, quoted
from zoo.exporter import Check, ExportSpec
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.golden_inputs import golden_photographs
from zoo.preprocess import Preprocess
from zoo.storage.files import SCHEMA, check_schema, write_bytes
from zoo.system.device import choose_device

RECORD = "extra/zoo.json"  # below the archive's own top folder

# All that an archive of ours holds, below the top folder
MEMBERS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|extra/zoo\.json"
)

TRACED_BATCH = 2  # so that the exporter does not take the batch for a constant 1
CHECKED_BATCHES = (1, 2, 7)  # a pinned batch shows at any size but the traced one
TOLERANCE = 1e-4  # share of the largest logit; the archive runs the same kernels as the network
MAX_BATCH = 32  # photographs predicted together


@dataclass(frozen=True)
class ArchivePredictor:
    """A `zoo.predictor.Predictor`: Pillow prepares, the archive's network predicts."""

    network: Any
    classes: tuple[str, ...]
    preprocess: Preprocess
    place: torch.device

    @property
    def device(self) -> str:
        return str(self.place)

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        for start in range(0, len(photographs), MAX_BATCH):
            chunk = photographs[start : start + MAX_BATCH]
            batch = normalise(np.stack([pixels(photograph, self.preprocess) for photograph in chunk]), self.preprocess)
            with torch.inference_mode():
                found[start : start + len(chunk)] = self.network(torch.from_numpy(batch).to(self.place)).cpu().numpy()
        return found


def write(spec: ExportSpec) -> None:
    """Write `spec.file`.

    Raises:
        ZooError: the network cannot be traced or does not take any batch size, or the file cannot be written.
    """
    if len(set(spec.classes)) != len(spec.classes):
        twice = next(name for name in spec.classes if spec.classes.count(name) > 1)
        raise ZooError(f"class `{twice}` stands twice; a file's classes are known by their names")
    spec.model.eval()
    side = spec.preprocess.crop
    program = _trace(spec.model, side)
    _compare(spec.model, program, side)
    program._example_inputs = None  # would be saved as a pickle; there is no public way to leave it out
    stream = io.BytesIO()
    torch.export.save(program, stream)
    _refuse_pickles(stream.getvalue(), spec.file)
    seen = np.stack([pixels(photograph, spec.preprocess) for photograph in golden_photographs().values()])
    with torch.inference_mode():
        answers = spec.model(torch.from_numpy(normalise(seen, spec.preprocess))).float().numpy()
    record = {
        "schema": SCHEMA,
        "classes": list(spec.classes),
        "preprocess": spec.preprocess.to_json(),
        "metadata": spec.metadata,
        "golden": Golden.of(spec.classes, answers).to_json(),
        "digests": _digests(stream.getvalue()),
    }
    text = json.dumps(record, ensure_ascii=False, sort_keys=False)
    sealed = json.dumps({**record, "sha256": hashlib.sha256(text.encode()).hexdigest()}, ensure_ascii=False)
    with zipfile.ZipFile(stream, "a", compression=zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{_top(archive)}{RECORD}", sealed)
    write_bytes(spec.file, stream.getvalue())


def _trace(model: torch.nn.Module, side: int) -> torch.export.ExportedProgram:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused path that the tracer does not know
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            example = torch.zeros(TRACED_BATCH, 3, side, side)
            return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
    except Exception as error:  # torch.export raises whatever a network makes it raise
        said = quoted(error)
        raise ZooError(f"the network cannot be traced by torch.export: {type(error).__name__}: {said}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _compare(model: torch.nn.Module, program: torch.export.ExportedProgram, side: int) -> None:
    """Raises ZooError where the traced network differs from the network at any batch size."""
    traced = program.module()
    generator = torch.Generator().manual_seed(0)
    for batch in CHECKED_BATCHES:
        values = torch.randn(batch, 3, side, side, generator=generator)
        with torch.inference_mode():
            expected, found = model(values), traced(values)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not difference <= TOLERANCE:
            raise ZooError(f"at batch {batch} the traced network differs by {difference:.2g} of the largest logit")


def _top(archive: zipfile.ZipFile) -> str:
    """The archive's one top folder, with a slash."""
    return archive.namelist()[0].partition("/")[0] + "/"


def _digests(content: bytes) -> dict[str, str]:
    """SHA-256 of every member but the record, by its name below the top folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        top = _top(archive)
        return {
            name.removeprefix(top): hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name != f"{top}{RECORD}"
        }


def _refuse_pickles(content: bytes, path: Path) -> None:
    """Only members that torch reads as plain bytes or JSON, each once.

    Raises:
        ZooError: there is another.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        top, names = _top(archive), archive.namelist()
        for member in archive.infolist():
            name = member.filename.removeprefix(top)
            if not MEMBERS.fullmatch(name) or names.count(member.filename) > 1:
                raise _refused(path, name)
            if name.endswith(".pt") and member.file_size:
                raise _refused(path, name)
            if name.endswith("_config.json"):
                for entry in json.loads(archive.read(member)).get("config", {}).values():
                    plain = re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name")))
                    if not plain or entry.get("use_pickle") is not False:
                        raise _refused(path, str(entry.get("path_name")))


def _refused(path: Path, name: str) -> ZooError:
    return ZooError(
        f"`{path}` holds `{name}`, which may be a pickle; none is read",
        hint="`zoo export --to onnx` writes the same network without any",
    )


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The archive's bytes and its record.

    Raises:
        ZooError: missing, damaged, not ours, or of a newer schema.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            record = json.loads(archive.read(f"{_top(archive)}{RECORD}"))
    except KeyError as error:
        raise ZooError(f"`{path}` was not written by zoo: it has no `{RECORD}`") from error
    except (zipfile.BadZipFile, ValueError, IndexError, EOFError) as error:
        raise ZooError(
            f"`{path}` is no PT2 archive, or was cut short", hint="copy it again, or export the run again"
        ) from error
    if not isinstance(record, dict) or "schema" not in record:
        raise ZooError(f"`{path}` is damaged: its `{RECORD}` has no schema", hint="export the run again")
    check_schema(record["schema"], Path(path))
    return content, record


def open_file(path: Path, device: str) -> ArchivePredictor:
    """Open an archive on `auto`, `cpu`, `cuda` or `cuda:N`. Read only files that you trust: torch parses them.

    Raises:
        UsageError: no such device name.
        ZooError: the file is missing, damaged, not ours or too new; or CUDA was asked for and cannot be had.
    """
    return _load(path, *_read(path), device)


def _load(path: Path, content: bytes, record: dict[str, Any], device: str) -> ArchivePredictor:
    place = choose_device(device, "fp32").place
    try:
        _refuse_pickles(content, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.export.load(io.BytesIO(content)).module().to(place)
        return ArchivePredictor(
            network, tuple(map(str, record["classes"])), Preprocess.from_json(record["preprocess"]), place
        )
    except ZooError:
        raise
    except Exception as error:  # of a damaged archive torch raises KeyError, RuntimeError, struct.error and more
        said = quoted(error)
        raise ZooError(f"torch cannot open `{path}`: {said}", hint="was it written by a newer torch?") from error


def verify(path: Path, device: str) -> list[Check]:
    """Integrity of every member, then golden inputs. The network is loaded only from an archive that is whole.

    Raises:
        ZooError: the file cannot be read, is not ours or too new; or the device cannot be had.
    """
    content, record = _read(path)
    sealed = {key: value for key, value in record.items() if key != "sha256"}
    text = json.dumps(sealed, ensure_ascii=False, sort_keys=False)
    whole = record.get("sha256") == hashlib.sha256(text.encode()).hexdigest()
    checks = [
        Check(
            name="record",
            passed=whole,
            detail=f"{len(sealed['classes'])} classes"
            if whole
            else "classes, preprocessing or metadata were changed after the file was written",
        )
    ]
    recorded = dict(record.get("digests", {}))
    try:
        actual = _digests(content)
    except (zipfile.BadZipFile, EOFError) as error:
        return [*checks, Check(name="integrity", passed=False, detail=f"a member of the archive is damaged: {error}")]
    changed = sorted(name for name in recorded.keys() | actual.keys() if recorded.get(name) != actual.get(name))
    checks.append(
        Check(
            name="integrity",
            passed=not changed,
            detail=f"`{changed[0]}` was changed, added or removed" if changed else f"{len(actual)} members",
        )
    )
    if changed:
        return checks
    predictor = _load(path, content, record, device)
    return [*checks, check_golden(Golden.from_json(record["golden"]), predictor.classes, predictor.logits)]
