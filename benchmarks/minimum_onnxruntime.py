"""Finds the oldest onnxruntime that executes exported files as the newest does, in environments of its own.

    python benchmarks/minimum_onnxruntime.py FILE... [--gpu] [--versions 1.16.3 1.17.3 ...] [--out results.json]

For each version it makes a virtual environment with that version, verifies each file by the program that `zoo verify
--script` writes, and compares the logits of the golden inputs with those of the newest version. Needs a network for
pip. With `--gpu` it installs `onnxruntime-gpu` and asks the CUDA provider; it needs a CUDA device then. The results are
the bounds in `exporters/zoo_onnx/metadata.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo_onnx.script import source

VERSIONS = ("1.16.3", "1.17.3", "1.18.0", "1.20.1", "1.22.1", "1.23.2", "1.31.1")
PROGRAM = """
import json, sys
import onnxruntime as ort
import verify_model
from verify_model import golden_photographs

file, provider = sys.argv[1:]
checks = verify_model.checks(verify_model.Path(file), provider)
found = {"version": ort.__version__, "checks": [[bool(passed), text] for passed, text in checks]}
try:
    session = ort.InferenceSession(file, providers=[provider])
    photographs = golden_photographs().values()
    found["logits"] = [session.run(["logits"], {"photographs": one[None]})[0][0].tolist() for one in photographs]
except Exception as error:
    found["error"] = " ".join(str(error).split())[:200]
print(json.dumps(found, allow_nan=False))
"""


def environment(folder: Path, package: str, version: str) -> Path:
    """The Python of an environment with one version of onnxruntime; it is made if it is not there."""
    python = folder / version / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / version], check=True)
        numpy = "numpy<2" if tuple(map(int, version.split(".")[:2])) < (1, 19) else "numpy"
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{package}=={version}", numpy], check=True)
    return python


def ask(python: Path, file: Path, provider: str, folder: Path) -> dict[str, Any]:
    """What one version says to one file."""
    (folder / "verify_model.py").write_text(source(), encoding="utf-8")
    (folder / "ask.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run([python, folder / "ask.py", file, provider], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it was killed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The largest difference of a logit."""
    if "logits" not in one or "logits" not in other:
        return None
    pairs = zip(one["logits"], other["logits"], strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS))
    parser.add_argument("--environments", type=Path, default=Path("build/onnxruntimes"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    package, provider = ("onnxruntime", "CPUExecutionProvider")
    if options.gpu:
        package, provider = ("onnxruntime-gpu", "CUDAExecutionProvider")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for file in options.files:
            found = {}
            for version in options.versions:
                python = environment(options.environments / package, package, version)
                found[version] = ask(python, file.resolve(), provider, Path(name))
            newest = found[options.versions[-1]]
            for version, said in found.items():
                checks = said.get("checks", [])
                failed = [text for passed, text in checks if not passed]
                row = {
                    "file": file.name,
                    "provider": provider,
                    "version": version,
                    "passed": bool(checks) and not failed and "error" not in said,
                    "difference": difference(said, newest),
                    "failure": said.get("error") or next(iter(failed), None),
                }
                rows.append(row)
                print(json.dumps(row, allow_nan=False), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
