"""The documentation as the site's builder gets it: pages with their generated parts, and files that they link to.

    python docs/generate.py build/docs

What the reference says of commands, strategies and plugins is read off the code. A page asks for such a part by
`<!-- generated: NAME -->`. Nothing here imports torch, or depends on the program that builds the site.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import server_tables

from zoo.plugin import Plugins
from zoo.target import load_target
from zoo_cli.main import run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# Files outside `docs/` that pages link to; they lie at the same path below the site's root
ALSO = ("CHANGELOG.md", "benchmarks/results/**/*", "examples/*.*")

# Classes of `zoo.__all__` that a user meets first; all others are what plugins are made of
FOR_USERS = ("Experiment", "ExportSpec", "Plugins", "ProgressBar", "Results", "Run", "Study")


def generate(target: Path) -> None:
    """Write the pages, and what they link to, to the folder `target`, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    for file in sorted(DOCS.rglob("*")):
        place = target / file.relative_to(DOCS)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            place.write_text(page(file), encoding="utf-8")
        elif file.is_file() and file.suffix not in (".py", ".pyc"):
            shutil.copy(file, place)
    for pattern in ALSO:
        for file in ROOT.glob(pattern):
            if file.is_file():
                place = target / file.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)


def page(file: Path) -> str:
    """A page with its generated parts, without comments for tests, and with links that stay in the site."""
    text = re.sub(
        r"<!-- generated: ([\w ]+) -->", lambda found: GENERATED[found[1]](), file.read_text(encoding="utf-8")
    )
    text = re.sub(r"^<!--.*?-->\n", "", text, flags=re.MULTILINE)
    up = "../" * len(file.relative_to(DOCS).parts)
    return text.replace(f"]({up}", f"]({up.removesuffix('../')}")


def command_line() -> str:
    """Every command with its arguments, options and defaults."""
    plugins = Plugins()
    return "\n".join(line for entry in plugins.commands for line in _command(entry.name, _loaded(entry.value.target)))


def _loaded(target: str) -> click.Command:
    command: Any = load_target(target)
    assert isinstance(command, click.Command)
    return command


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"zoo {name}", max_content_width=100)
    yield from (f"## `zoo {name}` {{ #zoo-{name.replace(' ', '-')} }}", "", *_help(command.help or ""), "")
    yield from ("```text", f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}", "```", "")
    yield from ("| option | | default |", "| --- | --- | --- |")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        option, text = record
        text, default = _without_default(text)
        # a bar in code needs no escape, and a space beside it lets a narrow cell wrap
        yield f"| `{option.replace('|', ' | ')}` | {_cell(_code(text))} | {_cell(default)} |"
    yield ""
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from _command(f"{name} {word}", inner)


def _without_default(text: str) -> tuple[str, str]:
    """A help text and its default, which click, or we, put in brackets behind it; a range's bounds are left out."""
    text = re.sub(r"\s*\[x?[<>=\dx]+\]$", "", text)
    found = re.search(r"\s*\[(?:default: )?([^\[\]]+?)(?:; x?[<>=\dx]+)?\]$", text)
    return (text[: found.start()], found[1]) if found else (text, "")


def _help(text: str) -> Iterator[str]:
    """A command's help as Markdown; what click prints as it is are examples."""
    for paragraph in text.split("\n\n"):
        if paragraph.strip().startswith("\b"):
            yield from ("```text", textwrap.dedent(paragraph.strip().removeprefix("\b").strip("\n")), "```", "")
        else:
            yield from (_code(" ".join(paragraph.split())), "")


def _code(text: str) -> str:
    """Options and names in capitals as code."""
    return re.sub(r"(?<![`\w-])(--[a-z][\w-]*)(?![\w`-])", r"`\1`", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def strategy_options() -> str:
    """The options of every strategy, and the words that every phase takes."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(["list", "strategies", "--options", "--json"]) == 0
    told = json.loads(printed.getvalue())
    lines = ["| strategy | what it does | option | type | default | |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in Plugins().strategies:
        first = [f"`{entry.name}`", _cell(entry.value.summary)]
        for row in [row for row in told["options"] if row["strategy"] == entry.name] or [None]:
            rest = [""] * 4
            if row is not None:
                default = "required" if row["required"] else f"`{row['default']}`"
                rest = [f"`{row['option']}`", row["type"], default, _cell(row["help"])]
            lines.append(f"| {' | '.join(first + rest)} |")
            first = ["", ""]
    for word in told["of_every_phase"]:
        lines.append(f"| every strategy | | `{word['name']}` | {word['type']} | | {_cell(word['help'])} |")
    return "\n".join(lines)


def _catalogue(plural: str) -> Callable[[], str]:
    def table() -> str:
        rows = [f"| `{entry.name}` | {_cell(entry.value.summary)} |" for entry in getattr(Plugins(), plural)]
        return "\n".join(["| name | what it is |", "| --- | --- |", *rows])

    return table


def modules() -> str:
    """Every module of the tree with the first paragraph of its docstring."""
    lines = ["| module | what it holds |", "| --- | --- |"]
    for root in ("zoo", "plugins", "exporters", "cli"):
        for file in sorted((ROOT / root).rglob("*.py")):
            told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            first = told.split("\n\n")[0]
            lines.append(f"| `{file.relative_to(ROOT)}` | {_cell(first)} |")
    return "\n".join(lines)


def _api(group: str) -> Callable[[], str]:
    """The public names of `zoo`, for mkdocstrings."""

    def names() -> str:
        import griffe

        package: Any = griffe.load("zoo", search_paths=[str(ROOT)])
        members = {name: package[name].final_target for name in sorted(str(name) for name in package.exports)}
        groups = {name: _group(name, members) for name in members}
        return "\n\n".join(f"::: zoo.{name}" for name in members if groups[name] == group)

    return names


def checks() -> str:
    """What `zoo.testing` offers, for mkdocstrings."""
    import zoo.testing

    targets = vars(zoo.testing)["__getattr__"].args[1]  # names alone, without importing torch
    return "\n\n".join(f"::: {targets[name].replace(':', '.')}" for name in zoo.testing.__all__)


def _group(name: str, members: dict[str, Any]) -> str:
    member = members[name]
    if not member.is_class:
        return "functions"
    if name.endswith("Error"):
        return "errors"
    return "users" if name in FOR_USERS else "plugins"


GENERATED: dict[str, Callable[[], str]] = {
    "command line": command_line,
    "strategies": strategy_options,
    "modules": modules,
    "checks": checks,
    "server routes": server_tables.routes,
    "server bounds": server_tables.bounds,
    "server rejections": server_tables.rejections,
    "server metrics": server_tables.metrics,
    **{plural: _catalogue(plural) for plural in ("datasets", "metrics", "exporters", "runtimes")},
    **{f"api {group}": _api(group) for group in ("functions", "users", "plugins", "errors")},
}

if __name__ == "__main__":
    generate(Path(sys.argv[1]))
