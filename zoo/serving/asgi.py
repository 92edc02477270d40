"""The ASGI application of exported files, for servers other than `zoo serve`: Ray Serve, granian, plain uvicorn.

    ZOO_SERVE_FILES=model.onnx granian --interface asgi --factory zoo.serving.asgi:app
    ZOO_SERVE_FILES=model.onnx uvicorn --factory zoo.serving.asgi:app

What `zoo serve` adds is not here: deadlines for headers and bodies, the drain, hot swaps and the supervisor.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp

from zoo.errors import UsageError
from zoo.plugin import Plugins
from zoo.serving.access_token import read_token
from zoo.serving.app import make_app
from zoo.serving.bounds import Bounds
from zoo.serving.origin import check_origin
from zoo.serving.served_model import open_served
from zoo.serving.service import Service
from zoo.system.processors import usable_cpus

FILES = "ZOO_SERVE_FILES"  # paths, with `:` between them (`;` on Windows)
TOKEN_FILE = "ZOO_SERVE_TOKEN_FILE"


def app(
    files: Sequence[Path | str] | Path | str | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    threads: int = 1,
    token: str | None = None,
    origins: Sequence[str] = (),
    bounds: Bounds | None = None,
) -> ASGIApp:
    """Verify and open files, and make the application that answers for them.

    Args:
        files: Exported files; the first answers requests that name no model. None: those that the environment variable
            `ZOO_SERVE_FILES` names.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode and classify. None: one for each core.
        threads: Threads that each of them computes with.
        token: What requests must name as `Authorization: Bearer TOKEN`. None: what the file says that the environment
            variable `ZOO_SERVE_TOKEN_FILE` names; nothing if there is none.
        origins: Web pages' origins that may call it.
        bounds: What is accepted.

    Raises:
        UsageError: a file is missing, cannot be served, or two have one name; or an origin is none.
        ZooError: a file fails verification.
    """
    if files is None:
        files = [name for name in os.environ.get(FILES, "").split(os.pathsep) if name]
    paths = [Path(files)] if isinstance(files, (str, Path)) else [Path(one) for one in files]
    if not paths:
        raise UsageError("no file was given to serve", hint=f"set `{FILES}`, such as to `model.onnx`")
    if len({path.stem for path in paths}) < len(paths):
        raise UsageError("two files have the same name, by which requests tell them apart", hint="rename one of them")
    for origin in origins:
        check_origin(origin)
    if token is None and TOKEN_FILE in os.environ:
        token = read_token(Path(os.environ[TOKEN_FILE]))
    plugins = Plugins()
    models = [open_served(path, name=path.stem, device=device, threads=threads, plugins=plugins) for path in paths]
    service = Service(models, workers=workers or usable_cpus(), bounds=bounds)
    version = importlib.import_module("zoo").__version__  # the package's own face stands above this module
    return make_app(service, version=version, token=token, origins=tuple(origins))
