"""Start-up: stand-ins for torch's compiler, and that it is there once somebody asks for it. In fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import Run


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sys.stderr.write(done.stderr)  # pytest shows it where the test fails
    return done.stdout


TRAIN = """
import json, sys
from zoo_cli.main import run
for strategy, out in (("linear", "solved"), ("partial:1,epochs=1", "steps")):
    code = run([*sys.argv[1:], "--strategy", strategy, "--out", out])
    print(json.dumps([code, "torch._dynamo" in sys.modules]))
"""


def test_training_does_not_import_the_compiler(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a solved head, which comes first, nor steps."""
    monkeypatch.chdir(tmp_path)
    answer = run(
        TRAIN, "train", "--data", str(two_splits), "--backbone", "timm/test_efficientnet", "--weights", "none",
        "--image-size", "32",
    )  # fmt: skip
    told = [json.loads(line) for line in answer.splitlines() if line.startswith("[")]
    assert told == [[0, False], [0, False]]
    assert Run.open("solved").history[0]["solved"] and Run.open("steps").record["steps"] > 0


# What plugins and libraries do, each in an interpreter of its own; what they ask for, they get from the real compiler
ASKED = {
    "a module of it": "import torch._dynamo.config; assert torch._dynamo.config.verbose is not None",
    "a module that has a stand-in": "from torch._dynamo.utils import counters",
    "a function": "import torch._dynamo; torch._dynamo.reset()",
    "a function of torch": "import torch; torch.compiler.reset()",
    "to compile": "import torch; assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2",
}
# The last two go on after the stand-ins have left
LIBRARIES = """
import sys
with without_compiler():
    import timm, torch, torchvision
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).step()
assert not any(name.startswith("torch._dynamo") for name in sys.modules)
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert roi_align(torch.rand(1, 3, 8, 8), boxes, 2).shape == (1, 3, 2, 2)
from timm.models.naflexvit import NaFlexRopeIterator
layer = torch.nn.Linear(3, 3)
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(1, 3)), layer(torch.ones(1, 3)))
"""
# As with torch's own mark, a marked function breaks the graph
MARKED = """
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
"""
# torch is imported once; each program then runs in a copy of that process
RUN_ALL = """
import json, os, sys, traceback
from zoo.system.lazy_compiler import without_compiler
with without_compiler():
    import torch
for program in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        try:
            assert "torch._dynamo" not in sys.modules
            exec(program, {"without_compiler": without_compiler})
            assert type(sys.modules["torch._dynamo"]).__name__ == "module"
            assert type(sys.modules["torch._dynamo.utils"]).__name__ == "module"
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize(
    "asked",
    [
        ("a module that has a stand-in", "a function"),
        # the same two ways into the stand-ins, for another module and taken by torch itself
        pytest.param(("a module of it", "a function of torch", "to compile"), marks=pytest.mark.slow),
    ],
)
def test_the_compiler_is_imported_only_when_used(asked: tuple[str, ...]) -> None:
    programs = {name: f"with without_compiler():\n    {ASKED[name]}" for name in asked}
    programs |= {"libraries": LIBRARIES, "marked": MARKED}
    answers = run(RUN_ALL, json.dumps([*programs.values(), "assert False"])).split()
    assert dict(zip(programs, answers)) == dict.fromkeys(programs, "0")
    assert len(answers) == len(programs) + 1 and answers[-1] == "1"  # a program that fails is noticed
