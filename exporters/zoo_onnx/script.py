"""The source of the standalone verifier: the module `deployed`, with the generator of golden inputs inlined."""

from __future__ import annotations

import importlib.util
from pathlib import Path

IMPORTED = "from zoo.exporting.golden_inputs import golden_photographs\n"
HEAD = ("from __future__ import annotations\n", "import numpy as np\n", "import numpy.typing as npt\n")


def source() -> str:
    """The text of the program, which needs onnxruntime and numpy."""
    text, generator = _text("zoo_onnx.deployed"), _text("zoo.exporting.golden_inputs")
    body = generator[generator.index(HEAD[-1]) + len(HEAD[-1]) :]  # the text after its imports
    assert IMPORTED in text and "import" not in body
    return (
        text.replace(IMPORTED, "")
        .replace("import numpy as np\n", "import numpy as np\nimport numpy.typing as npt\n")
        .replace("import onnxruntime as ort\n", f"import onnxruntime as ort\n{body.rstrip()}\n", 1)
    )


def _text(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin).read_text(encoding="utf-8")
