"""The documents are under test: names that they mention exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from zoo import hookspecs
from zoo.plugin import Plugins
from zoo.target import load_target

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_hook_is_a_heading_of_the_plugin_page() -> None:
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert set(re.findall(r"^### `(register_\w+)\(register\)`$", text, re.MULTILINE)) == hooks


def test_the_plugin_in_the_docs_is_the_one_that_is_tested() -> None:
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    folder = ROOT / "tests/packages/backbone-zoo-acme"
    for file in ("pyproject.toml", "zoo_acme/__init__.py", "zoo_acme/network.py", "tests/test_acme.py"):
        assert (folder / file).read_text().strip() in text, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_options(page: Path) -> None:
    commands = {entry.name: load_target(entry.value.target) for entry in Plugins().commands}
    for block in re.findall(r"```(?:sh|console|bash)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("zoo "):
                continue
            words = shlex.split(line, comments=True)
            if words[1].startswith("-"):
                continue
            command: click.Command = commands[words[1]]  # type: ignore[assignment]
            known = {option for parameter in command.params for option in parameter.opts}
            for word in words[2:]:
                if word.startswith("--"):
                    assert word.split("=")[0] in known, (line, word)


def test_modules_of_the_architecture_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:zoo|plugins|exporters|cli|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for module in sorted((ROOT / "zoo").rglob("*.py")):
        name = str(module.relative_to(ROOT))
        assert name in text or module.name == "__init__.py", f"{name} is not in docs/architecture.md"
