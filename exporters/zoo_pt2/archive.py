"""PT2 archives: the network by `torch.export`, with a record for its use and verification.

The archive is a zip file. After torch has written it, one member is added, `extra/zoo.json`: schema, classes,
preprocessing, metadata, golden logits and the SHA-256 of every other member. Pillow does the preprocessing, as in the
run.

The format allows pickles, which run code when they are read. None is written here, and an archive with one is rejected
before torch reads it. torch still parses the text of the graph, so treat archives from others like programs.
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
from zoo.preprocess import ImageSize, Preprocess, height_width
from zoo.storage.files import SCHEMA, check_schema, json_text, write_bytes
from zoo.system.device import choose_device

RECORD = "extra/zoo.json"  # below the archive's top folder

# All members of an archive written by zoo, below the top folder
MEMBERS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|extra/zoo\.json"
)

TRACED_BATCH = 2  # because the exporter may treat a batch of 1 as a constant
CHECKED_BATCHES = (1, 2, 7)  # a batch size fixed by mistake shows at any size but the traced one
TOLERANCE = 1e-4  # as a fraction of the largest logit; the archive runs the same kernels as the network
MAX_BATCH = 32  # photographs in a batch


@dataclass(frozen=True)
class ArchivePredictor:
    """A `zoo.predictor.Predictor`: Pillow does the preprocessing, the archive's network computes the logits."""

    network: Any
    classes: tuple[str, ...]
    preprocess: Preprocess
    place: torch.device

    @property
    def device(self) -> str:
        return str(self.place)

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        for start in range(0, len(photographs), MAX_BATCH):
            chunk = photographs[start : start + MAX_BATCH]
            batch = normalise(np.stack([pixels(photograph, self.preprocess) for photograph in chunk]), self.preprocess)
            try:
                with torch.inference_mode():
                    answer = self.network(torch.from_numpy(batch).to(self.place)).cpu().numpy()
            except RuntimeError as error:  # such as for lack of memory
                raise ZooError(f"the file does not run on a batch of {len(chunk)}: {quoted(error)}") from error
            found[start : start + len(chunk)] = answer
        return found


def write(spec: ExportSpec) -> None:
    """Export the network to `spec.file`.

    Raises:
        ZooError: the network cannot be traced or fails at some batch size, or the file cannot be written.
    """
    if len(set(spec.classes)) != len(spec.classes):
        twice = next(name for name in spec.classes if spec.classes.count(name) > 1)
        raise ZooError(f"class `{twice}` occurs twice; class names must be unique")
    spec.model.eval()
    size = spec.preprocess.crop
    program = _trace(spec.model, size)
    _compare(spec.model, program, size)
    program._example_inputs = None  # would be saved as a pickle; there is no public API to leave it out
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
    text = json_text(record)
    sealed = json_text({**record, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    with zipfile.ZipFile(stream, "a", compression=zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{_top(archive)}{RECORD}"), sealed)  # of 1980, as torch's own members
    write_bytes(spec.file, stream.getvalue())


def _trace(model: torch.nn.Module, size: ImageSize) -> torch.export.ExportedProgram:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused path that the tracer does not support
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            example = torch.zeros(TRACED_BATCH, 3, *height_width(size))
            return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
    except Exception as error:  # torch.export raises exceptions of any type
        said = quoted(error)
        raise ZooError(f"the network cannot be traced by torch.export: {type(error).__name__}: {said}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _compare(model: torch.nn.Module, program: torch.export.ExportedProgram, size: ImageSize) -> None:
    """Compare the traced network with the original at several batch sizes.

    Raises:
        ZooError: they differ.
    """
    traced = program.module()
    generator = torch.Generator().manual_seed(0)
    for batch in CHECKED_BATCHES:
        values = torch.randn(batch, 3, *height_width(size), generator=generator)
        with torch.inference_mode():
            expected, found = model(values), traced(values)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not difference <= TOLERANCE:
            raise ZooError(f"at batch {batch} the traced network differs by {difference:.2g} of the largest logit")


def _top(archive: zipfile.ZipFile) -> str:
    """The name of the archive's top folder, with a slash."""
    return archive.namelist()[0].partition("/")[0] + "/"


def _digests(content: bytes) -> dict[str, str]:
    """SHA-256 of every member except the record, by its name below the top folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        top = _top(archive)
        return {
            name.removeprefix(top): hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name != f"{top}{RECORD}"
        }


def _refuse_pickles(content: bytes, path: Path) -> None:
    """Check that torch reads every member as plain bytes or JSON, and that none occurs twice.

    Raises:
        ZooError: another member, which may be a pickle.
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
        f"`{path}` holds `{name}`, which may be a pickle, and pickles are never read",
        hint="`zoo export --to onnx` writes the same network without pickles",
    )


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read the bytes of an archive and its record.

    Raises:
        ZooError: the file is missing, damaged, not written by zoo, or of a newer schema.
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
            f"`{path}` is not a PT2 archive, or is truncated", hint="copy it again, or export the run again"
        ) from error
    if not isinstance(record, dict) or "schema" not in record:
        raise ZooError(f"`{path}` is damaged: its `{RECORD}` has no schema", hint="export the run again")
    check_schema(record["schema"], Path(path))
    return content, record


def open_file(path: Path, device: str) -> ArchivePredictor:
    """Open an archive on `auto`, `cpu`, `cuda` or `cuda:N`. Open only files that you trust, because torch parses them.

    Raises:
        UsageError: unknown device name.
        ZooError: the file is missing, damaged, not written by zoo or too new; or CUDA was requested and is not
            available.
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
    except Exception as error:  # for a damaged archive torch raises KeyError, RuntimeError, struct.error and others
        said = quoted(error)
        raise ZooError(
            f"torch cannot open `{path}`: {said}", hint="it may have been written by a newer torch"
        ) from error


def verify(path: Path, device: str) -> list[Check]:
    """Check the integrity of every member, then the golden inputs. The network is loaded only if no member has changed.

    Raises:
        ZooError: the file cannot be read, was not written by zoo or is too new; or the device is not available.
    """
    content, record = _read(path)
    sealed = {key: value for key, value in record.items() if key != "sha256"}
    text = json_text(sealed)
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
