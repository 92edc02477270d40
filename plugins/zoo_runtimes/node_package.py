"""Where node and its package onnxruntime-web are. Imports no engine and no numpy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ZooError

PACKAGE = "onnxruntime-web"
FOLDER = "ZOO_ONNXRUNTIME_WEB"
INSTALL = f"`npm install {PACKAGE}`"
OLDEST_NODE = 18  # the oldest that runs onnxruntime-web's modules
VERSION_SECONDS = 60  # a busy machine may take long to start a program


@dataclass(frozen=True)
class Installation:
    """Where node and onnxruntime-web are: the program, the package's folder, and the file of it that node imports."""

    node: str
    package: Path
    module: Path


def find_installation() -> Installation:
    """Find node on the PATH, and onnxruntime-web in `ZOO_ONNXRUNTIME_WEB`, or in `node_modules` here or above.

    Raises:
        ZooError: one of them is absent.
    """
    node = shutil.which("node")
    if node is None:
        raise ZooError(
            "node is not on the PATH, which runs onnxruntime-web",
            hint=f"install Node.js {OLDEST_NODE} or newer, then {INSTALL}",
        )
    given = os.environ.get(FOLDER)
    folders = (Path(given).expanduser(),) if given else (Path.cwd(), *Path.cwd().parents)
    for folder in folders:
        for package in (folder / "node_modules" / PACKAGE, *((folder,) if given else ())):
            module = _module_of(package)
            if module is not None:
                return Installation(node, package, module)
    where = f"in `{given}`, which {FOLDER} names" if given else "in `node_modules` of this folder or of one above it"
    raise ZooError(
        f"{PACKAGE} was not found {where}", hint=f"{INSTALL} puts it into this folder; {FOLDER} names another one"
    )


def check_node(node: str) -> None:
    """Check that a program is Node.js, and new enough.

    Raises:
        ZooError: it is not; the message has its version or its answer.
    """
    hint = f"install Node.js {OLDEST_NODE} or newer, and put it first on the PATH"
    try:
        done = subprocess.run(
            [node, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=VERSION_SECONDS
        )
    except OSError as error:
        raise ZooError(f"`{node}` cannot be started: {error.strerror}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise ZooError(f"`{node} --version` gave no answer in {VERSION_SECONDS} seconds", hint=hint) from error
    answer = done.stdout.decode(errors="replace").strip()
    version = re.fullmatch(r"v(\d+)(\.\d+)+\S*", answer)
    if done.returncode or version is None:
        lines = answer.splitlines() or done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ZooError(f"`{node}` is not Node.js: `--version` says {lines[0][:100]}", hint=hint)
    if int(version[1]) < OLDEST_NODE:
        raise ZooError(f"`{node}` is Node.js {answer[1:]}, which is too old for {PACKAGE}", hint=hint)


def _module_of(package: Path) -> Path | None:
    """The file that node imports for a package; None where the folder is not onnxruntime-web."""
    try:
        described = json.loads((package / "package.json").read_text(encoding="utf-8"))
        if described["name"] != PACKAGE:
            return None
        module = package / described["exports"]["."]["node"]["import"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return module if module.is_file() else None
