"""Metadata of an ONNX file, and its seal: a SHA-256 of the file, stored in the file, that reveals any change.

All keys begin with `zoo.` in the file's `metadata_props`. Text is stored as it is, everything else as JSON.
The digests reveal damage and changes; they are not a signature, because anyone can recompute them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.storage.files import SCHEMA, json_text

if TYPE_CHECKING:
    import onnx

PREFIX = "zoo."
KEY_SCHEMA = "zoo.schema"
KEY_CLASSES = "zoo.classes"
KEY_PREPROCESS = "zoo.preprocess"
KEY_GOLDEN = "zoo.golden"
KEY_DIGESTS = "zoo.digests"
KEY_EXPORTER = "zoo.exporter"
KEY_MINIMUM = "zoo.minimum_onnxruntime"  # on CUDA; its name is older than the bound on a CPU
KEY_MINIMUM_ON_CPU = "zoo.minimum_onnxruntime_cpu"
KEY_MINIMUM_ON_CUDA = "zoo.minimum_onnxruntime_cuda"
KEY_PRECISION = "zoo.precision"
KEY_PREPROCESSING = "zoo.preprocessing"
KEY_PARITY = "zoo.parity"  # difference between file and run, on the images that the run was scored on
KEY_REFERENCE = "zoo.reference"  # predictions and looks of the images that the run was scored on, for servers
KEY_EXTERNAL = "zoo.external"  # for large models: SHA-256 of the file with the weights, by its name
KEY_UNKNOWN = "zoo.unknown"  # in files with the output `unknown`: how its threshold was set
KEY_SHA256 = "zoo.sha256"
RESERVED = (
    KEY_SCHEMA,
    KEY_CLASSES,
    KEY_PREPROCESS,
    KEY_GOLDEN,
    KEY_DIGESTS,
    KEY_EXPORTER,
    KEY_MINIMUM,
    KEY_MINIMUM_ON_CPU,
    KEY_MINIMUM_ON_CUDA,
    KEY_PRECISION,
    KEY_PREPROCESSING,
    KEY_PARITY,
    KEY_REFERENCE,
    KEY_EXTERNAL,
    KEY_UNKNOWN,
    KEY_SHA256,
)

# The first release that reads a file on a CPU: older ones refuse IR version 10. From here on the logits of the golden
# inputs are those of the newest release, in fp16 up to 1e-6; measured by `benchmarks/minimum_onnxruntime.py`
MINIMUM_ON_CPU = "1.18.0"
# The first release whose CUDA provider resizes correctly with `mode=cubic, antialias=1` (onnxruntime#25264: earlier
# ones left out rows and ignored `cubic_coeff_a`). On the CPU, older releases are correct too.
MINIMUM_ONNXRUNTIME = "1.23.0"

_BLANK = b"0" * 64
# The entry as protobuf serialises it: key (field 1, 10 bytes), then value (field 2, 64 bytes)
_SEAL = b"\x0a" + bytes([len(KEY_SHA256)]) + KEY_SHA256.encode() + b"\x12" + bytes([len(_BLANK)])


def encode(value: Any) -> str:
    """Encode a metadata value as text."""
    return value if isinstance(value, str) else json_text(value)


def read(model: onnx.ModelProto) -> dict[str, str]:
    """Read the metadata of a file.

    Raises:
        ZooError: a key occurs twice, so that readers would disagree on its value.
    """
    found: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key in found:
            raise ZooError(f"the file's metadata holds `{entry.key}` twice", hint="export the run again")
        found[entry.key] = entry.value
    return found


def check_readable(metadata: Mapping[str, str], file: object) -> None:
    """Check that zoo wrote the metadata, in a schema that this version supports.

    Raises:
        ZooError: it did not, or the schema is newer.
    """
    schema = metadata.get(KEY_SCHEMA)
    if schema is None:
        raise ZooError(
            f"`{file}` was not written by zoo: it has no `{KEY_SCHEMA}` in its metadata",
            hint="to predict with it, pass `zoo predict FILE --preprocess BACKBONE`; `zoo bench` measures it; "
            "other commands need a file written by `zoo export`",
        )
    if not schema.isdecimal() or int(schema) > SCHEMA:
        raise ZooError(
            f"`{file}` has schema {schema}, this zoo reads up to {SCHEMA}",
            hint="it was written by a newer zoo: `pip install --upgrade backbone-zoo`",
        )


def decode(metadata: Mapping[str, str], key: str, file: object) -> Any:
    """The JSON value of a required key.

    Raises:
        ZooError: the key is missing, or its value is not JSON.
    """
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError) as error:
        what = "is missing" if isinstance(error, KeyError) else "cannot be read"
        raise ZooError(f"`{file}` is damaged: its metadata `{key}` {what}", hint="export the run again") from error


def seal(model: onnx.ModelProto) -> bytes:
    """Serialise with the SHA-256 of the file, computed with 64 zeros in its place, as last metadata `zoo.sha256`."""
    kept = [entry for entry in model.metadata_props if entry.key != KEY_SHA256]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY_SHA256, _BLANK.decode()
    blank: bytes = model.SerializeToString()
    place = _seal_place(blank)
    assert place is not None
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank[:place] + digest + blank[place + len(digest) :]


def read_seal(content: bytes) -> tuple[str, str] | None:
    """The recorded and the actual SHA-256 of a file; None if it has no seal or more than one."""
    place = _seal_place(content)
    if place is None:
        return None
    end = place + len(_BLANK)
    actual = hashlib.sha256(content[:place])
    actual.update(_BLANK)
    actual.update(memoryview(content)[end:])
    return content[place:end].decode("ascii", "replace"), actual.hexdigest()


def _seal_place(content: bytes) -> int | None:
    """Offset of the 64 characters of the digest; None if there is no seal or more than one."""
    first = content.find(_SEAL)
    if first < 0 or content.find(_SEAL, first + 1) >= 0:
        return None
    place = first + len(_SEAL)
    return place if place + len(_BLANK) <= len(content) else None


def digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest_tensor(tensor: onnx.TensorProto) -> str:
    """SHA-256 of the serialised tensor, shortened to 16 hex digits: there is one for every tensor, to reveal damage."""
    return hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()[:16]


def digest_parts(model: onnx.ModelProto, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Digests of the parts, which together cover the whole file, so that verification can name what changed."""
    import onnx  # not above: a server reads metadata through onnxruntime

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    del bare.metadata_props[:]
    others = {key: value for key, value in metadata.items() if key not in (KEY_DIGESTS, KEY_SHA256)}
    named = {KEY_CLASSES: "classes", KEY_PREPROCESS: "preprocess", KEY_GOLDEN: "golden"}
    rest = {key: value for key, value in others.items() if key not in named}
    return {
        **{name: digest_text(metadata.get(key, "")) for key, name in named.items()},
        "metadata": digest_text(json_text(rest, sort_keys=True, ascii_only=True)),
        "nodes": hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest(),
        "initialisers": {tensor.name: digest_tensor(tensor) for tensor in model.graph.initializer},
    }
