"""The ASGI application of files, as other servers make it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from zoo.errors import UsageError
from zoo.serving.asgi import app


def get(application: object, path: str, token: str | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_factory_without_arguments(exported_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("ZOO_SERVE_FILES", str(exported_run / "model.onnx"))
    monkeypatch.setenv("ZOO_SERVE_TOKEN_FILE", str(tmp_path / "token"))
    made = app(workers=1)
    assert get(made, "/v2/health/ready").json() == {"ready": True}
    assert get(made, "/v2/models/model").status_code == 401
    assert get(made, "/v2/models/model", "secret").json()["name"] == "model"


def test_files_that_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_SERVE_FILES", raising=False)
    with pytest.raises(UsageError, match="no file was given"):
        app()
    with pytest.raises(UsageError, match="the same name"):
        app([tmp_path / "a/model.onnx", tmp_path / "b/model.onnx"])
    with pytest.raises(UsageError, match="there is no file"):
        app(tmp_path / "model.onnx")
