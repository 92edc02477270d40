"""What a new Python process has imported after it has loaded a function: start-up is slow where that is a framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable

from zoo.errors import ZooError
from zoo.storage.files import json_text
from zoo.system.worker_process import python_command
from zoo.target import load_target

# What a plugin must not import before it is used: each takes a second or more
FRAMEWORKS = ("torch", "torchvision", "timm", "onnxruntime")


def frameworks_after(target: str, *arguments: str, call: bool = False, seconds: float | None = None) -> list[str]:
    """The frameworks that a new process has imported after it has loaded `target`.

    Args:
        target: `"module:attribute"`.
        arguments: Arguments of the function, if it is called.
        call: Whether the function is called, too.
        seconds: How long the process may take. None: as long as it wants.

    Raises:
        ZooError: the process fails or takes longer; the message is the last line of its stderr.
    """
    try:
        done = subprocess.run(
            python_command(f"{__name__}:tell", target, json_text(list(arguments)), "call" if call else ""),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ZooError(f"its process is not done after {seconds:g} seconds") from error
    answers = done.stdout.splitlines()
    if done.returncode or not answers:
        lines = done.stderr.strip().splitlines()
        signal = f"was ended by signal {-done.returncode}" if done.returncode < 0 else None
        told = lines[-1] if lines and signal is None else None
        raise ZooError(told or f"its process {signal or f'ended with status {done.returncode}'}")
    found: list[str] = json.loads(answers[-1])
    return found


def tell(target: str, arguments: str, call: str) -> None:
    """Print the frameworks, in the new process; what the plugin prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    function = load_target(target)
    if call:
        function(*json.loads(arguments))
    os.write(answer, f"{json_text(imported(sys.modules))}\n".encode())


def imported(modules: Iterable[str]) -> list[str]:
    """The frameworks among the names of modules."""
    known = set(modules)
    return [name for name in FRAMEWORKS if name in known]
