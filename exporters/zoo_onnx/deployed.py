"""Verifies an ONNX file that `zoo export` wrote where there is no zoo: its digest, golden inputs and provider.

    python verify_model.py model.onnx [CPUExecutionProvider | CUDAExecutionProvider | ...]

Needs onnxruntime and numpy. Exit 0 if all holds, 1 if not. Written by `zoo verify FILE --script verify_model.py`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from zoo.golden_inputs import golden_photographs


def checks(file: Path, provider: str) -> list[tuple[bool, str]]:
    """What was looked at: whether it holds, and the figure."""
    content = file.read_bytes()
    if provider.startswith("CUDA") and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        return [(False, f"onnxruntime {ort.__version__} refuses the file: {' '.join(str(error).split())[:300]}")]
    said = session.get_modelmeta().custom_metadata_map
    if "zoo.schema" not in said:
        return [(False, "the file was not written by zoo")]
    recorded = said.get("zoo.sha256", "")
    actual = hashlib.sha256(content.replace(recorded.encode(), b"0" * 64)).hexdigest()
    same = len(recorded) == 64 and actual == recorded
    found = [(same, f"digest {actual[:16]}" if same else f"digest {actual[:16]}, recorded {recorded[:16] or 'none'}")]
    for name, digest in json.loads(said.get("zoo.external", "{}")).items():
        beside = file.with_name(name)
        there = hashlib.sha256(beside.read_bytes()).hexdigest() if beside.is_file() else "none"
        found.append((there == digest, f"digest of {name} {there[:16]}, recorded {digest[:16]}"))
    ran = session.get_providers()[0]
    found.append((ran == provider, f"provider {ran}" + ("" if ran == provider else f", {provider} was asked for")))
    if said.get("zoo.preprocessing", "graph") != "graph":
        return [*found, (True, "golden inputs not looked at: the file takes prepared pixels")]
    golden, classes = json.loads(said["zoo.golden"]), json.loads(said["zoo.classes"])
    photographs = golden_photographs()
    for name, answer in golden["logits"].items():
        if list(answer) != classes:
            found.append((False, f"golden input {name}: the classes are not those of its record"))
            continue
        logits = session.run(["logits"], {"photographs": photographs[name][None]})[0][0]
        apart = float(np.abs(logits - np.array(list(answer.values()))).max())
        figures = f"golden input {name}: logits differ by {apart:.2g}, may by {golden['tolerance']:.2g}"
        found.append((apart <= golden["tolerance"], figures))
    return found


def main(arguments: list[str]) -> int:
    """Print a line for each check; the exit code."""
    if len(arguments) not in (1, 2) or not Path(arguments[0]).is_file():
        print(__doc__)
        return 2
    found = checks(Path(arguments[0]), arguments[1] if len(arguments) == 2 else "CPUExecutionProvider")
    for holds, what in found:
        print("ok    " if holds else "failed", what)
    return 0 if all(holds for holds, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
