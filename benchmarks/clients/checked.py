"""What all checks of a client share: expectations, notes of calls, and the comparison of messages.

It imports no zoo: it runs where the clients are installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

logging.disable(logging.CRITICAL)
EXPECTED, HTTP, GRPC = sys.argv[1:]
TOLD = json.loads(Path(EXPECTED).read_text(encoding="utf-8"))
PHOTOGRAPHS: list[dict[str, Any]] = TOLD["photographs"]
FIRST = Path(PHOTOGRAPHS[0]["path"])
CALLS: list[dict[str, Any]] = []
Check = str | Callable[[Any], bool]


def note(client: str, call: str, expected: Check, result: Any, error: BaseException | None) -> None:
    """Note a call: right if its result passes, or if its error holds the expected text."""
    if error is None:
        right, said = callable(expected) and bool(expected(result)), "as expected"
    else:
        right, said = isinstance(expected, str) and expected in str(error), " ".join(str(error).split())
    CALLS.append({"client": client, "call": call, "right": right, "said": said if right else f"{said} {result}"})


def check(client: str, call: str, made: Callable[[], Any], expected: Check) -> None:
    try:
        note(client, call, expected, made(), None)
    except Exception as error:
        note(client, call, expected, None, error)


async def check_later(client: str, call: str, made: Callable[[], Awaitable[Any]], expected: Check) -> None:
    try:
        note(client, call, expected, await made(), None)
    except Exception as error:
        note(client, call, expected, None, error)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))[None]


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def outputs(found: dict[str, Any], photograph: dict[str, Any]) -> dict[str, bool]:
    """Which outputs are bit for bit what `zoo predict` says."""
    return {
        "label": text(found["label"].ravel()[0]) == photograph["label"],
        "logits": np.array_equal(found["logits"].ravel(), np.array(photograph["logits"], np.float32)),
        "probabilities": np.array_equal(
            found["probabilities"].ravel(), np.array(photograph["probabilities"]).astype(np.float32)
        ),
    }


def right(found: dict[str, Any]) -> bool:
    return all(outputs(found, PHOTOGRAPHS[0]).values())


def row(client: str, sent: str, found: list[dict[str, bool]]) -> dict[str, Any]:
    """How many photographs get the answer of `zoo predict` bit for bit, by client and by what is sent."""
    counts = {name: sum(one[name] for one in found) for name in found[0]}
    return {"client": client, "sent": sent, "photographs": len(found), **counts}


def described(file: Any) -> dict[str, Any]:
    """The fields of all messages of a `FileDescriptorProto`, by the message's name."""

    def each(message: Any, prefix: str) -> Any:
        fields = {one.number: (one.name, one.type, one.label, one.type_name) for one in message.field}
        yield prefix + message.name, fields
        for inner in message.nested_type:
            yield from each(inner, f"{prefix}{message.name}.")

    return {name: fields for message in file.message_type for name, fields in each(message, "")}


def compare_messages(theirs: bytes) -> dict[str, Any]:
    """Our messages beside those of a client: a field that it has must be the same, number by number.

    Args:
        theirs: The serialized `FileDescriptorProto` of the client.
    """
    from google.protobuf import descriptor_pb2

    read = descriptor_pb2.FileDescriptorProto.FromString
    ours, others = described(read(bytes.fromhex(TOLD["descriptor"]))), described(read(theirs))
    both = [(key, number) for key in ours for number in ours[key] if number in others.get(key, {})]
    differ = [f"{key}.{number}" for key, number in both if ours[key][number] != others[key][number]]
    absent = [f"{key}.{ours[key][number][0]}" for key in ours for number in ours[key] if (key, number) not in both]
    missing = [key for key in ours if key not in others]
    return {"same": len(both) - len(differ), "differ": differ, "absent": absent + missing}


def tell(packages: tuple[str, ...], rows: list[dict[str, Any]], messages: dict[str, Any]) -> None:
    """Print what was found, as one line of JSON."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    messages = {"client": packages[0], **messages}
    print(
        json.dumps({"versions": versions, "calls": CALLS, "photographs": rows, "messages": messages}, allow_nan=False)
    )
