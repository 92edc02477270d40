"""Start-up: stand-ins for torch's compiler, and that it is there once somebody asks for it. In fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = """
import json, sys
from zoo_cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, "torch._dynamo" in sys.modules]))
"""


@pytest.mark.parametrize("strategy", ["linear", "partial:1"])
def test_training_does_not_import_the_compiler(two_splits: Path, tmp_path: Path, strategy: str) -> None:
    answer = run(
        TRAIN, "train", "--data", str(two_splits), "--backbone", "efficientnet_lite0", "--strategy", strategy,
        "--weights", "none", "--image-size", "32", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert json.loads(answer.splitlines()[-1]) == [0, False]


BOTH = """
import sys
from zoo.system.lazy_compiler import without_compiler
with without_compiler():
    import timm, torchvision
    optimizer = __import__("torch").optim.AdamW([__import__("torch").nn.Parameter(__import__("torch").ones(1))])
    optimizer.step()
assert not any(name.startswith("torch._dynamo") for name in sys.modules)
"""


def test_libraries_work_with_the_stand_ins_and_the_compiler_after_them() -> None:
    run(
        BOTH
        + """
import torch
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert roi_align(torch.rand(1, 3, 8, 8), boxes, 2).shape == (1, 3, 2, 2)
from timm.models.naflexvit import NaFlexRopeIterator
layer = torch.nn.Linear(3, 3)
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(1, 3)), layer(torch.ones(1, 3)))
assert "torch._dynamo" in sys.modules and type(sys.modules["torch._dynamo"]).__name__ == "module"
"""
    )


@pytest.mark.parametrize(
    "asked",
    [
        "import torch._dynamo.config; assert torch._dynamo.config.verbose is not None",
        "from torch._dynamo.utils import counters",
        "import torch._dynamo; torch._dynamo.reset()",
        "import torch; torch.compiler.reset()",
        "import torch; assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2",
    ],
)
def test_a_plugin_that_asks_for_the_compiler_gets_it(asked: str) -> None:
    run(f"""
import sys
from zoo.system.lazy_compiler import without_compiler
with without_compiler():
    {asked}
assert type(sys.modules["torch._dynamo"]).__name__ == "module"
assert type(sys.modules["torch._dynamo.utils"]).__name__ == "module"
""")


def test_what_is_marked_for_the_compiler_is_not_compiled() -> None:
    """As with torch's own mark, a marked function breaks the graph."""
    run("""
from zoo.system.lazy_compiler import without_compiler
import torch
with without_compiler():
    marked = torch.compiler.disable(lambda x: x * 2)
assert marked(torch.ones(1)) == 2
seen = []
def backend(graph, inputs):
    seen.append(graph)
    return graph
assert torch.compile(lambda x: marked(x + 1) + 1, backend=backend)(torch.ones(1)) == 5
assert len(seen) == 2 and not any("mul" in str(graph.graph) for graph in seen)
""")
