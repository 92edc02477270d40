"""Targets past one machine: the texts of a Triton model configuration and of KServe InferenceServices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.errors import UsageError, ZooError
from zoo.exporting.golden_inputs import SIZES
from zoo.serving.served_model import Batching, ServedModel
from zoo.storage.files import json_text

LABELS = "labels.txt"
MAX_BATCH = 32  # images in a request, as `zoo serve` has it. Triton bounds no pixels, so more would cost memory alone
TRITON_TYPES = {"uint8": "TYPE_UINT8", "float": "TYPE_FP32", "float16": "TYPE_FP16"}
PORT = 8080  # of KServe's Triton and of `zoo serve`
STORAGE = "s3://YOUR-BUCKET/models"  # placeholders, which no cluster accepts
IMAGE = "YOUR-REGISTRY/backbone-zoo-serve:TAG"
USER = 65532  # of packaging/Containerfile
LONGEST_NAME = 40  # KServe adds `-predictor` and more to a name, and a DNS label has at most 63 characters


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a file.

    Attributes:
        name: Its name.
        datatype: ONNX's name of the type of its elements, such as `uint8`.
        sides: Its shape. None: any size.
    """

    name: str
    datatype: str
    sides: tuple[int | None, ...]

    @staticmethod
    def parse(text: str) -> Tensor:
        """A tensor as `zoo inspect` writes it, such as `photographs uint8 (N, H, W, 3)`.

        Raises:
            ZooError: it is written otherwise.
        """
        found = re.fullmatch(r"(\S+) (\w+) \(([^()]*)\)", text)
        if found is None:
            raise ZooError(f"the file has a tensor `{text}`, which cannot be served")
        name, datatype, sides = found.groups()
        sizes = (int(side) if side.isdecimal() else None for side in re.split(r",\s*", sides))
        return Tensor(name=name, datatype=datatype, sides=tuple(sizes))

    def to_pbtxt(self, more: str = "") -> str:
        """It as an input or output of Triton's model configuration, without the batch dimension.

        Raises:
            ZooError: its batch has a fixed size, or Triton has no such type.
        """
        if not self.sides or self.sides[0] is not None or self.datatype not in TRITON_TYPES:
            raise ZooError(f"tensor `{self.name}` is no batch of any size, of numbers that Triton knows")
        sides = ", ".join("-1" if side is None else str(side) for side in self.sides[1:])
        datatype = TRITON_TYPES[self.datatype]
        return f"  {{ name: {_text(self.name)} data_type: {datatype} dims: [ {sides} ]{more} }}"


def triton_name(name: str) -> str:
    """What Triton calls a model: letters, digits, `.`, `_` and `-` of its name, with `_` for others."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "model"


def kserve_name(name: str) -> str:
    """What KServe calls a model: a DNS label of at most 40 characters that begins with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"model-{plain}".rstrip("-")
    return plain[:LONGEST_NAME].rstrip("-")


def distinct(models: Sequence[ServedModel], names: Sequence[str]) -> None:
    """Check that no two models have one name at the target.

    Raises:
        UsageError: two have.
    """
    seen: dict[str, ServedModel] = {}
    for model, name in zip(models, names):
        if name in seen:
            raise UsageError(
                f"`{seen[name].path}` and `{model.path}` would both be called `{name}` there",
                hint="rename or link one of them",
            )
        seen[name] = model


def labels_text(classes: Sequence[str]) -> str:
    """The text of a labels file: a class on each line, in the order of the logits; line breaks in a name are spaces."""
    return "".join(" ".join(name.splitlines()) + "\n" for name in classes)


def config_pbtxt(model: ServedModel, name: str) -> str:
    """Triton's model configuration of a file.

    Args:
        model: The file; its batching decides about dynamic batching.
        name: What Triton calls it; see `triton_name`.

    Raises:
        ZooError: a tensor of the file cannot be served.
    """
    inputs = [Tensor.parse(text) for text in model.record["inputs"]]
    outputs = [Tensor.parse(text) for text in model.record["outputs"]]
    joined = ",\n"
    return f"""\
# Written by `zoo serve --to triton` from `{_one_line(model.path.name)}`
# sha256 {model.digest}
name: {_text(name)}
backend: "onnxruntime"
default_model_filename: "model.onnx"

# The batch is the first dimension of every tensor, and is not among `dims`. Images of a batch have one size. Triton
# does not bound their pixels, so bound the length of bodies in front of it
max_batch_size: {MAX_BATCH}

input [
{joined.join(one.to_pbtxt() for one in inputs)}
]
output [
{joined.join(one.to_pbtxt(f" label_filename: {_text(LABELS)}") for one in outputs)}
]
version_policy: {{ latest: {{ num_versions: 1 }} }}

{_batching(model.batching)}
# The model is ready when these black images were classified
model_warmup [
{joined.join(_warm_up(inputs, model.batching))}
]
"""


def _batching(batching: Batching) -> str:
    told = f"# Measured where this was written: {batching}\n"
    if batching.size == 1:
        return f"{told}# so requests are not joined: no `dynamic_batching`\n"
    return f"{told}dynamic_batching {{ preferred_batch_size: [ {batching.size} ] max_queue_delay_microseconds: 0 }}\n"


def _warm_up(inputs: Sequence[Tensor], batching: Batching) -> list[str]:
    """A request for each way through the preprocessing, and one with a whole batch."""
    sizes = SIZES if any(None in one.sides[1:] for one in inputs) else {"image": (1, 1)}
    first = next(iter(sizes))
    asked = [(name, 1, size) for name, size in sizes.items()]
    if batching.size > 1:
        asked.append((f"{first} x {batching.size}", batching.size, sizes[first]))
    found = []
    for name, count, size in asked:
        values = []
        for one in inputs:
            free = iter(size)  # height and width, where the file takes any
            sides = ", ".join(str(next(free) if side is None else side) for side in one.sides[1:])
            values.append(
                f"    inputs {{ key: {_text(one.name)} value: {{ data_type: {TRITON_TYPES[one.datatype]} "
                f"dims: [ {sides} ] zero_data: true }} }}"
            )
        found.append("\n".join((f"  {{\n    name: {_text(name)} batch_size: {count}", *values, "  }")))
    return found


def inference_service(model: ServedModel, storage: str | None) -> str:
    """The InferenceService that runs a model on KServe's own Triton.

    Args:
        model: The file.
        storage: Where the cluster finds the folder that `zoo serve --to triton` wrote. None: a placeholder.
    """
    name = triton_name(model.name)
    return f"""\
{_head(model, "")}\
  predictor:
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      runtime: kserve-tritonserver # KServe's own; it loads every model in the folder
{_storage(storage, "      storageUri: ")}\
{_probes("      ", f"/v2/models/{name}/ready", "/v2/health/live")}\
"""


def own_service(model: ServedModel, storage: str | None) -> str:
    """The InferenceService that runs `zoo serve` as a custom predictor: it takes JPEG bytes, and verifies the file.

    Args:
        model: The file.
        storage: See `inference_service`.
    """
    file = f"/mnt/models/{triton_name(model.name)}/1/model.onnx"
    return f"""\
{_head(model, "-zoo")}\
  predictor:
    terminationGracePeriodSeconds: 45 # `zoo serve` drains for 5 s and finishes within 30 s
    containers:
      - name: kserve-container
        # Replace it: the image that you built of packaging/Containerfile
        image: {_text(IMAGE)}
        # Requests call the model `model`, as the file. `zoo serve` does not start if the file fails verification
        args: [{_text(file)}]
        env:
          - name: STORAGE_URI # KServe copies it to /mnt/models
{_storage(storage, "            value: ")}\
        ports:
          - containerPort: {PORT}
            protocol: TCP
        securityContext:
          runAsNonRoot: true
          runAsUser: {USER}
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities:
            drop: [ALL]
        resources:
          requests: {{ cpu: "1", memory: 1Gi }}
          limits: {{ memory: 4Gi }} # 200 million pixels in flight, as bytes and as floats
{_probes("        ", "/v2/health/ready", "/v2/health/live")}\
"""


def check_storage(storage: str) -> None:
    """Check that a text may be a storage URI of KServe.

    Raises:
        UsageError: it is none.
    """
    if re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-~]+", storage) is None:
        raise UsageError(
            f"`--storage-uri {storage}` is not a URI", hint="such as `s3://bucket/models` or `pvc://claim/models`"
        )


def _head(model: ServedModel, suffix: str) -> str:
    return f"""\
# Written by `zoo serve --to kserve` from `{_one_line(model.path.name)}`
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_text(kserve_name(model.name) + suffix)}
  annotations:
    zoo/sha256: {_text(model.digest)}
    zoo/precision: {_text(model.precision)}
spec:
"""


def _storage(storage: str | None, key: str) -> str:
    indent = re.match(" *", key)
    assert indent is not None
    what = "the uploaded folder of `zoo serve --to triton`"
    replace = f"{indent[0]}# Replace it: {what}\n" if storage is None else f"{indent[0]}# Holds {what}\n"
    return f"{replace}{key}{_text(storage or STORAGE)}\n"


def _probes(indent: str, ready: str, live: str) -> str:
    """Probes of a container; a server that verifies and warms up is not live for some seconds."""
    lines = []
    for name, path, delay, failures in (("readinessProbe", ready, 2, 3), ("livenessProbe", live, 60, 3)):
        lines += [
            f"{name}:",
            f"  httpGet: {{ path: {_text(path)}, port: {PORT} }}",
            f"  initialDelaySeconds: {delay}",
            "  periodSeconds: 5",
            "  timeoutSeconds: 5",
            f"  failureThreshold: {failures}",
        ]
    return "".join(f"{indent}{line}\n" for line in lines)


def _text(text: str) -> str:
    """A text in quotes, as both protobuf's text format and YAML read it."""
    return json_text(text)


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
