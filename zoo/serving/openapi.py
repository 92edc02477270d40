"""The description of the HTTP interface in OpenAPI 3.1, as `/openapi.json` gives it."""

from __future__ import annotations

from typing import Any

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "hint": {"type": "string"}},
}
LABELLED = {
    "type": "object",
    "required": ["label", "probability"],
    "properties": {
        "label": {"type": "string"},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
PREDICTION = {
    "type": "object",
    "required": ["label", "probability", "top", "model", "digest", "milliseconds"],
    "properties": {
        **LABELLED["properties"],  # type: ignore[dict-item]
        "top": {"type": "array", "items": LABELLED},
        "unknown": {"type": "boolean", "description": "whether the image is of no class, of files with a threshold"},
        "unknown_score": {"type": "number", "description": "how strange the image is; above 1 it is unknown"},
        "model": {"type": "string"},
        "digest": {"type": "string", "description": "SHA-256 of the file"},
        "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
        "size": {"type": "array", "items": {"type": "integer"}, "description": "width and height in pixels"},
        "frames": {"type": "integer", "description": "of the file, if it has several; the first was classified"},
        "remarks": {"type": "array", "items": {"type": "string"}},
    },
}
TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "enum": ["image", "photographs"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}


def _answers(content: dict[str, Any], **errors: str) -> dict[str, Any]:
    found: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    for status, text in errors.items():
        found[status.removeprefix("_")] = {"description": text, "content": {"application/json": {"schema": ERROR}}}
    return found


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def openapi(models: list[str], version: str) -> dict[str, Any]:
    """The description, with the names of the served models and the version of zoo."""
    refused = {
        "_400": "malformed",
        "_401": "a token is needed",
        "_404": "unknown model or version",
        "_413": "body or image over its bound",
        "_415": "a known format that is not read",
        "_422": "not an image",
        "_503": "busy; the header Retry-After says when to try again",
        "_504": "over the deadline",
    }
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": models}}
    of_version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "enum": ["1"]}}
    paths: dict[str, Any] = {
        "/predict": {
            "post": {
                "summary": "Classify an image",
                "parameters": [
                    {"name": "top", "in": "query", "schema": {"type": "integer", "minimum": 1}},
                    {"name": "model", "in": "query", "schema": {"type": "string", "enum": models}},
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        kind: {"schema": {"type": "string", "format": "binary"}}
                        for kind in ("image/jpeg", "application/octet-stream")
                    },
                },
                "responses": _answers(_json(PREDICTION), **refused),
            }
        },
        "/models": {
            "get": {"summary": "Model cards, and the server's bounds", "responses": _answers(_json({"type": "object"}))}
        },
        "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": _answers({"text/plain": {}})}},
        "/drift": {
            "get": {
                "summary": "Expected accuracy, and how the images differ from those that the file was scored on",
                "parameters": [{"name": "model", "in": "query", "schema": {"type": "string", "enum": models}}],
                "responses": _answers(_json({"type": "object"}), _401="a token is needed", _404="unknown model"),
            }
        },
        "/shadow": {
            "get": {
                "summary": "How the labels of the shadow differ",
                "responses": _answers(_json({"type": "object"}), _401="a token is needed", _404="there is no shadow"),
            }
        },
        "/v2": {"get": {"summary": "Server metadata", "responses": _answers(_json({"type": "object"}))}},
    }
    for name in ("live", "ready"):
        told = _answers(_json({"type": "object", "properties": {name: {"type": "boolean"}}}), _503="not ready")
        paths[f"/v2/health/{name}"] = {"get": {"summary": f"Whether the server is {name}", "responses": told}}
    for prefix, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, of_version]),
    ):
        metadata = {"summary": "Model metadata", "parameters": parameters}
        ready = {"summary": "Whether the model is ready", "parameters": parameters}
        infer = {"summary": "Classify images", "parameters": parameters, "requestBody": {"content": _json(INFER)}}
        unknown = _answers(_json({"type": "object"}), _404="unknown model or version")
        paths[prefix] = {"get": metadata | {"responses": unknown}}
        paths[f"{prefix}/ready"] = {"get": ready | {"responses": unknown | _answers(_json({}), _503="not ready")}}
        paths[f"{prefix}/infer"] = {"post": infer | {"responses": _answers(_json({"type": "object"}), **refused)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "zoo serve", "version": version},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
