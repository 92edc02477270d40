"""Verifies an ONNX file written by `zoo export`, without zoo: its digest, golden inputs and provider.

    python verify_model.py model.onnx [CPUExecutionProvider | CUDAExecutionProvider | ...]

Needs onnxruntime and numpy. Exits with 0 if all checks pass, and with 1 if not.
Written by `zoo verify FILE --script verify_model.py`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from zoo.exporting.golden_inputs import golden_photographs


def checks(file: Path, provider: str) -> list[tuple[bool, str]]:
    """Run all checks; for each, whether it passed, and a line of text."""
    content = file.read_bytes()
    if provider.startswith("CUDA") and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The mantissa of TF32 has 10 bits, and the golden logits were computed in fp32
    settings = {"use_tf32": "0"} if provider.startswith("CUDA") else {}
    try:
        session = ort.InferenceSession(str(file), options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        return [(False, f"onnxruntime {ort.__version__} cannot load the file: {' '.join(str(error).split())[:300]}")]
    said = session.get_modelmeta().custom_metadata_map
    if "zoo.schema" not in said:
        return [(False, "the file was not written by zoo")]
    recorded = said.get("zoo.sha256", "")
    blank = content.replace(recorded.encode(), b"0" * 64) if len(recorded) == 64 else content
    actual = hashlib.sha256(blank).hexdigest()
    same = actual == recorded
    found = [(same, f"digest {actual[:16]}" if same else f"digest {actual[:16]}, recorded {recorded[:16] or 'none'}")]
    ran = session.get_providers()[0]
    found.append((ran == provider, f"provider {ran}" + ("" if ran == provider else f", not {provider}")))
    try:
        return [*found, *external(file, said), *golden(session, said)]
    except Exception as error:  # the metadata or the graph have changed
        return [*found, (False, f"the file is damaged: {type(error).__name__} {' '.join(str(error).split())[:200]}")]


def external(file: Path, said: dict[str, str]) -> list[tuple[bool, str]]:
    """Check the digests of the files beside the model, which hold the weights of a large one."""
    found = []
    for name, digest in json.loads(said.get("zoo.external", "{}")).items():
        beside = file.with_name(name)
        there = hashlib.sha256(beside.read_bytes()).hexdigest() if beside.is_file() else "none"
        found.append((there == digest, f"digest of {name} {there[:16]}, recorded {digest[:16]}"))
    return found


def golden(session: ort.InferenceSession, said: dict[str, str]) -> list[tuple[bool, str]]:
    """Check that the model gives the recorded logits for each golden input."""
    if said.get("zoo.preprocessing", "graph") != "graph":
        return [(True, "golden inputs skipped: the file has no preprocessing; use `zoo verify`")]
    recorded, classes = json.loads(said["zoo.golden"]), json.loads(said["zoo.classes"])
    photographs = golden_photographs()
    if set(recorded["logits"]) != set(photographs):
        return [(False, "the file records other golden inputs than this program generates")]
    found = []
    for name, answer in recorded["logits"].items():
        if list(answer) != classes:
            found.append((False, f"golden input {name}: the recorded classes differ from those of the file"))
            continue
        outputs = ["logits", "probabilities", *(["unknown"] if "zoo.unknown" in said else [])]
        logits, shares, *score = (value[0] for value in session.run(outputs, {"photographs": photographs[name][None]}))
        exponents = np.exp(logits.astype(np.float64) - logits.max())
        if not np.abs(shares - exponents / exponents.sum()).max() <= 1e-3:
            found.append((False, f"golden input {name}: the probabilities are not the softmax of the logits"))
        apart = float(np.abs(logits - np.array(list(answer.values()))).max())
        figures = f"golden input {name}: logits differ by {apart:.2g} (tolerance {recorded['tolerance']:.2g})"
        found.append((apart <= recorded["tolerance"], figures))
        if score:
            wanted, most = recorded["unknown"][name], recorded["unknown_tolerance"]
            apart = float(abs(score[0] - wanted)) / max(1.0, abs(wanted))
            found.append(
                (apart <= most, f"golden input {name}: `unknown` differs by {apart:.2g} (tolerance {most:.2g})")
            )
    return found


def main(arguments: list[str]) -> int:
    """Print a line for each check, and return the exit code."""
    if len(arguments) not in (1, 2) or not Path(arguments[0]).is_file():
        print(__doc__)
        return 2
    found = checks(Path(arguments[0]), arguments[1] if len(arguments) == 2 else "CPUExecutionProvider")
    for holds, what in found:
        print("ok    " if holds else "failed", what)
    return 0 if all(holds for holds, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
