"""The pages of the documentation as tests see them: their code blocks, how these are run, how outputs are compared.

A page is Markdown. What a test does with a fenced block follows from its language and from the comment above it:

    ```sh                               run, in order, in one temporary folder for each page
    <!-- not run: REASON --> ```sh      not run; commands and options must exist
    <!-- server --> ```sh               `zoo serve` on a free port, until the page's next server or its end; the shown
                                        port, 8080, stands for it in all blocks that follow
    ```text after ```sh                 what the commands print, compared by `difference`
    ```python                           run, in the same folder
    ```LANGUAGE title="FILE"            written to FILE in that folder, so that later commands can use it
    ```toml, ```json, ```text, ...      data, only shown

`<!-- given: photos runs/first -->` at the top of a page names what the folder holds before the first command.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS, PROGRAM = "sh", "python"
DATA = ("text", "toml", "json", "protobuf", "csv", "html")
SHOWN_ADDRESS = "127.0.0.1:8080"  # of a server, as pages show it
PATIENCE = 240.0  # seconds for a server to start on a slow machine
WIDTH = 110  # columns of every output that is shown

# A figure that depends on the processor may differ by this much, or by this share
FIGURE, SHARE = 0.15, 0.25


@dataclass(eq=False)
class Block:
    """A fenced block of a page."""

    page: Path
    first: int  # index of the line with the opening fence
    last: int  # index of the line with the closing fence
    language: str
    text: str
    title: str = ""  # the file that it is written to
    not_run: str = ""  # why it is not run
    server: bool = False  # started, and not waited for
    counts: int = 0  # by how much a count in an output may differ
    compared: int | None = None  # lines of an output that are compared; None: all
    output: Block | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.first + 1}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; what a block of commands prints is joined to it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    above, index, since = "", 0, 0
    while index < len(lines):
        line = lines[index]
        if not line.startswith("```"):
            if line.startswith("<!--"):
                above += line
            elif line.strip():
                above, since = "", since + 1
            index += 1
            continue
        closing = next(i for i in range(index + 1, len(lines)) if lines[i] == "```")
        language, _, attributes = line[3:].partition(" ")
        block = Block(page, index, closing, language, "\n".join(lines[index + 1 : closing]) + "\n")
        block.title = _match(r'title="(.+?)"', attributes)
        block.not_run = _match(r"<!-- not run: (.+?) -->", above)
        block.server = "<!-- server -->" in above
        block.counts = int(_match(r"<!-- counts may differ by (\d+) -->", above) or 0)
        block.compared = int(_match(r"<!-- compared: the first (\d+) lines", above) or 0) or None
        if found and language == "text" and found[-1].language == COMMANDS and since == 0:
            found[-1].output = block
        else:
            found.append(block)
        above, index, since = "", closing + 1, 0
    return found


def given(page: Path) -> list[str]:
    """What a page asks to lie in its folder before its first command."""
    return _match(r"<!-- given: (.+?) -->", page.read_text(encoding="utf-8")).split()


def in_a_shell(page: Path) -> bool:
    """Whether every `zoo` of a page is a process of its own, as for pages that install plugins or kill a run."""
    return "<!-- run in a shell -->" in page.read_text(encoding="utf-8")


def commands_of(text: str) -> list[str]:
    """The commands of a block or of a line, each as one line."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


# Running


class Folder:
    """A temporary folder in which a page's blocks are run; `zoo` runs in this process, or with `shell` in its own."""

    def __init__(self, path: Path, extras: Path, *, shell: bool) -> None:
        self.path, self.shell = path, shell
        self.site, programs, self.log = extras / "site", extras / "bin", extras / "server.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.address = SHOWN_ADDRESS
        programs.mkdir()
        alone = "install --quiet --no-index --no-deps --no-build-isolation"
        pip = f"'{sys.executable}' -m pip --disable-pip-version-check {alone} --target '{self.site}'"
        for name, text in {
            "python": f"exec '{sys.executable}' \"$@\"",
            "zoo": f"exec '{sys.executable}' -m zoo_cli.main \"$@\"",
            # `pip install ./PACKAGE` reaches the page's own folder and no network; `-e` would need a package more
            "pip": f'shift; [ "$1" = -e ] && shift; exec {pip} "$@"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        # the built-in plugins come first on the path, then the packages that the page installs
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(self.site)])),
            "COLUMNS": str(WIDTH),
            "CUDA_VISIBLE_DEVICES": "",  # outputs are those of a machine without a GPU
        }

    def write(self, block: Block) -> None:
        """Write a block to the file that is its title."""
        file = self.path / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text.replace(SHOWN_ADDRESS, self.address), encoding="utf-8")

    def run(self, block: Block) -> str:
        """Run a block; what it printed, on stdout and stderr together."""
        if block.server:
            return self._start(block).replace(self.address, SHOWN_ADDRESS)
        there = replace(block, text=block.text.replace(SHOWN_ADDRESS, self.address))
        return self._run(there).replace(self.address, SHOWN_ADDRESS)

    def _start(self, block: Block) -> str:
        """Start a server, and wait until it serves; what it printed until then."""
        self.stop()
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.text.replace("zoo serve ", "zoo serve --port 0 ")],
                cwd=self.path,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE
        while True:
            printed = self.log.read_text(encoding="utf-8")
            found = re.search(r"serving on http://(127\.0\.0\.1:\d+).*\n", printed)
            if found is not None:
                self.address = found[1]
                return printed
            assert self.server.poll() is None and time.monotonic() < until, f"{block} does not serve\n{printed}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, if there is one, with its child processes."""
        if self.server is not None:
            below = psutil.Process(self.server.pid).children(recursive=True)  # the server has a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    process.wait()
            self.server = None

    def _run(self, block: Block) -> str:
        if self.shell and block.language == PROGRAM:
            return self._in_a_shell(f"python - <<'PROGRAM'\n{block.text}PROGRAM", block)
        if self.shell:
            return self._in_a_shell(block.text, block)
        if block.language == PROGRAM:
            with self._captured() as printed:
                exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
            return printed.getvalue()
        return "".join(self._one(line, block) for line in commands_of(block.text))

    def _one(self, line: str, block: Block) -> str:
        if not line.startswith("zoo ") or re.search(r"[|<>;&$`]", line):
            return self._in_a_shell(line, block)
        from zoo_cli.main import run

        with self._captured() as printed:
            words = [word for pattern in shlex.split(line, comments=True)[1:] for word in _expand(pattern)]
            code = run(words)
        assert code == 0, f"{block}: `{line}` exits {code}\n{printed.getvalue()}"
        return printed.getvalue()

    @contextlib.contextmanager
    def _captured(self) -> Iterator[io.StringIO]:
        """This process in the folder and its environment; what it prints on both streams."""
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("COLUMNS", "CUDA_VISIBLE_DEVICES"):
                patch.setenv(name, self.environment[name])
            patch.chdir(self.path)
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                yield printed

    def _in_a_shell(self, text: str, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.path,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block} exits {done.returncode}\n{text}\n{done.stdout}"
        return _BUSY.sub("", done.stdout)


def _expand(pattern: str) -> list[str]:
    """As a shell does it: the files that match, or the pattern itself."""
    return sorted(glob.glob(pattern)) or [pattern]  # noqa: PTH207 - the pattern may be absolute


# Comparing outputs

# What is said of a machine that is busy with other tests
_BUSY = re.compile(r"^warning: other programs kept .*?(less\s+time|vary\s+less)\n", re.MULTILINE | re.DOTALL)

_BOXES = re.compile(r"[\u2500-\u257f]+")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")
_VARYING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"(?<![\w.])[0-9a-f]{16,}\b"), "DIGEST"),
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:+]+)?"), "TIME"),
    (re.compile(r"^device .*$", re.MULTILINE), "device"),  # bf16 where the processor is fast in it
    (re.compile(r"\(tolerance [\d.e-]+\)"), "(tolerance)"),  # a share of the largest logit
    (re.compile(r"^[^\w\n]*seconds( .*)?$", re.MULTILINE), "seconds"),  # a row of a table
    (re.compile(r"\babout a second\b"), "about 1 s"),
    # of a server: its measurement of batches, and the milliseconds of an answer
    (re.compile(r"batches of up to \d+ \(.*?\)"), "batches"),
    (re.compile(r'("(?:queue|decode|network|total)": )[\d.]+'), r"\1#"),
    (re.compile(r"\bin place of\s+(?:a second|(\d+)\s+s)\b"), "in place of 1 s"),
    # times, speeds and sizes
    (re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)? ?(s|ms|KiB|MiB|GiB|kB|MB|GB|images/s)\b"), r"# \1"),
)


def difference(shown: str, found: str, *, counts: int = 0, lines: int | None = None) -> str | None:
    """Where an output differs from the one that is shown, in its first `lines`; None if it does not.

    Words must be equal, counts may differ by `counts`, figures with a decimal point by 0.15 or a quarter, and times,
    speeds, sizes, digests and dates by anything. Line breaks and the frames of tables are left out.
    """
    ours, theirs = (_words("\n".join(text.strip("\n").splitlines()[:lines])) for text in (shown, found))
    for place, (one, other) in enumerate(zip(ours, theirs)):
        if not _same(one, other, counts):
            return f"shown   {' '.join(ours[place : place + 12])}\nprinted {' '.join(theirs[place : place + 12])}"
    if len(ours) != len(theirs):
        place = min(len(ours), len(theirs))
        return f"shown   {' '.join(ours[place:]) or '(nothing)'}\nprinted {' '.join(theirs[place:]) or '(nothing)'}"
    return None


def _words(text: str) -> list[str]:
    text = _BOXES.sub(" ", text)
    for pattern, put in _VARYING:
        text = pattern.sub(put, text)
    return text.split()


def _same(one: str, other: str, counts: int) -> bool:
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    for ours, theirs in zip(_NUMBER.findall(one), _NUMBER.findall(other)):
        a, b = float(ours.replace(",", "")), float(theirs.replace(",", ""))
        whole = "." not in ours and "e" not in ours and "." not in theirs and "e" not in theirs
        if abs(a - b) > (counts if whole else max(FIGURE, SHARE * max(abs(a), abs(b)))):
            return False
    return True


def rewrite(shown: Block, printed: str) -> None:
    """Put what was printed in the place of the output that the page shows."""
    lines = shown.page.read_text(encoding="utf-8").splitlines()
    lines[shown.first + 1 : shown.last] = [line.rstrip() for line in printed.strip("\n").splitlines()]
    shown.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
