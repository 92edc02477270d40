"""Tables of the page on the server, read off its code: routes, bounds, rejections, metrics."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.serving.bounds import Bounds
from zoo.serving.openapi import openapi
from zoo.serving.service import Service

SERVING = Path(__file__).parents[1] / "zoo/serving"
OPTIONS = {
    "body": "--max-body",
    "pixels": "--max-pixels",
    "queue": "--queue",
    "deadline": "--deadline",
    "connections": "--max-connections",
    "accept": "--accept",
}
OWN_ROUTES = (
    ("GET", "/", "The page", "200"),
    ("GET", "/openapi.json", "This interface in OpenAPI 3.1", "200"),
)


def routes() -> str:
    """Every route with what it answers."""
    rows = list(OWN_ROUTES)
    for path, methods in openapi(["M"], "0")["paths"].items():
        short = path.replace("{model}", "M").replace("{version}", "1")
        for method, told in methods.items():
            rows.append((method.upper(), short, told["summary"], ", ".join(told["responses"])))
    lines = ["| | route | what it does | statuses |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {method} | `{path}` | {text} | {codes} |" for method, path, text, codes in rows)])


def bounds() -> str:
    """Every bound with its option and default."""
    told = dict(
        re.findall(r"^ {8}(\w+): (.+?)(?=\n {8}\w+: |\n {4}\"\"\"|\Z)", _attributes(), re.MULTILINE | re.DOTALL)
    )
    lines = ["| bound | option | default |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Bounds):
        option = f"`{OPTIONS[field.name]}`" if field.name in OPTIONS else ""
        text = " ".join(told[field.name].split())
        default = f"{field.default:,}" if isinstance(field.default, (int, float)) else "none"
        lines.append(f"| {text} | {option} | {default} |")
    return "\n".join(lines)


def _attributes() -> str:
    told = Bounds.__doc__ or ""
    return told.partition("Attributes:\n")[2].rstrip()


def rejections() -> str:
    """Every answer that is no prediction: its status, the reason in `zoo_rejected_total`, and its message."""
    lines = ["| status | reason | message |", "| --- | --- | --- |"]
    lines += [f"| {status} | `{reason}` | {message} |" for status, reason, message in sorted(set(_rejections()))]
    return "\n".join(lines)


def _rejections() -> Iterator[tuple[int, str, str]]:
    yield 404, "path", "there is no such path"
    yield 405, "path", "the method … is not allowed here"
    for file in sorted(SERVING.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            texts = {
                node.targets[0].id: _text(node.value)
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for node in ast.walk(function):
                found = _rejection(node, texts) if isinstance(node, ast.Call) else None
                if found is not None:
                    yield found


def _rejection(call: ast.Call, texts: dict[str, str]) -> tuple[int, str, str] | None:
    """What a call rejects with; None if it makes no rejection, or one whose status another call gives."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    arguments: list[Any] = [one.value if isinstance(one, ast.Constant) else one for one in call.args]
    if name == "later":  # 503 with `Retry-After`
        arguments.insert(0, 503)
    elif name == "_refuse":  # of connections
        if len(arguments) == 2:
            arguments.insert(1, "-")  # no reason counts it
    elif name != "Rejection":
        return None
    if len(arguments) < 3 or not isinstance(arguments[0], int) or not isinstance(arguments[1], str):
        return None
    message = call.args[len(call.args) - len(arguments) + 2]
    if isinstance(message, ast.Name):
        return arguments[0], arguments[1], texts.get(message.id, "what is wrong with it")
    return arguments[0], arguments[1], _text(message)


def _text(value: ast.expr) -> str:
    """A text with an ellipsis for each of its values."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    if not isinstance(value, ast.JoinedStr):
        return "what is wrong with it"
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in value.values)


def metrics() -> str:
    """Every metric with its labels."""
    service = Service([], workers=0)
    lines = ["| metric | type | labels | what it counts |", "| --- | --- | --- | --- |"]
    for collector in list(service.metrics.registry._collector_to_names):
        for family in collector.collect():
            labels: Any = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            name = family.name + ("_total" if family.type == "counter" else "")
            told = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {family.type} | {told} | {family.documentation} |")
    service.close()
    return "\n".join(lines)
