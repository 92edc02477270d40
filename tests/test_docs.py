"""Laws of the documentation: names, links, options and tables agree with the code. Its commands: test_docs_run.py."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import docs_pages
import generate
import onnx
import pytest
from docs_pages import COMMANDS, DATA, PAGES, PROGRAM, ROOT, blocks_of, commands_of

import zoo
import zoo.testing
import zoo_cli
from zoo import hookspecs
from zoo.plugin import Plugins
from zoo.scaffolding.package import nouns
from zoo.target import load_target

DOCS = ROOT / "docs"
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def keys_of(text: str) -> set[str]:
    """What stands as code in the first column of a page's tables."""
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`(.+?)`", row)}


@pytest.fixture(scope="module")
def commands() -> dict[str, click.Command]:
    return {entry.name: load_target(entry.value.target) for entry in Plugins().commands}  # type: ignore[misc]


# Plugins


def test_every_hook_is_a_heading_of_the_plugin_page() -> None:
    text = read("how-to/plugins/index.md")
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert set(re.findall(r"^### `(register_\w+)\(register\)`$", text, re.MULTILINE)) == hooks
    for hook in hooks:  # each has a guide whose package implements it
        name = {"strategies": "strategy", "losses": "loss"}.get(hook.removeprefix("register_"), hook[9:-1])
        assert f"def {hook}(register):" in read(f"how-to/plugins/{name}.md")


def test_the_plugin_in_the_docs_is_the_one_that_is_tested() -> None:
    folder = ROOT / "tests/packages/backbone-zoo-acme"
    shown = {block.title: block.text for block in blocks_of(DOCS / "how-to/plugins/whole-package.md") if block.title}
    files = [file for file in folder.rglob("*.*") if file.suffix in (".py", ".toml")]
    assert shown == {f"{folder.name}/{file.relative_to(folder)}": file.read_text() for file in files}


def test_every_check_of_the_plugin_page_is_there() -> None:
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \|", read("how-to/plugins/index.md"), re.MULTILINE)
    assert [noun for noun, _ in rows] == list(nouns(Plugins()))
    assert all(check == f"check_{noun}" and check in zoo.testing.__all__ for noun, check in rows)


def passed_on() -> dict[str, dict[str, str]]:
    """What each public module takes from a deeper package when it is asked: `"module:attribute"` by name."""
    found = {}
    for file in sorted((ROOT / "zoo").glob("*.py")):
        if file.stem != "__init__":
            lazy = vars(importlib.import_module(f"zoo.{file.stem}")).get("__getattr__")
            if lazy is not None:
                found[f"zoo.{file.stem}"] = dict(lazy.args[1])
    return found


def test_names_that_public_modules_pass_on_are_there() -> None:
    section = read("how-to/plugins/index.md").partition("## What a plugin may import")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.MULTILINE)
    told = {module: set(re.findall(r"`(\w+)`", names)) for module, names in rows}
    assert told == {module: set(names) for module, names in passed_on().items()}
    for module, names in told.items():
        assert all(getattr(importlib.import_module(module), name) is not None for name in names)


RENAMED = {"kept_features": "cached_features"}  # the public name was there first


def test_names_that_are_passed_on_lead_to_what_has_that_name() -> None:
    lazy = {**passed_on(), "zoo": dict(vars(zoo)["__getattr__"].args[1])}
    for module, targets in lazy.items():
        for name, target in targets.items():
            deeper, _, attribute = target.partition(":")
            assert attribute == RENAMED.get(name, name), f"{module}.{name} leads to {target}"
            assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(deeper), attribute)


def test_public_modules_cover_all_imports_of_built_in_plugins() -> None:
    public = {target for names in passed_on().values() for target in names.values()}
    public |= {f"{value.__module__}:{name}" for name, value in ((name, getattr(zoo, name)) for name in zoo.__all__)}
    taken = 0
    for file in (file for root in ("plugins", "exporters") for file in (ROOT / root).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and re.match(r"zoo\.\w+\.", node.module):
                for alias in node.names:
                    assert f"{node.module}:{alias.name}" in public, f"{file.relative_to(ROOT)}: {alias.name}"
                    taken += 1
    assert taken > 30


# Links and commands


@every_page
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_paths_of_documents_in_the_code_exist() -> None:
    for root in ("zoo", "plugins", "exporters", "cli", "tests", "benchmarks", "examples"):
        for file in (ROOT / root).rglob("*"):
            if file.suffix in (".py", ".md", ".sh", ".ipynb"):
                for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|py)\b", file.read_text(encoding="utf-8")):
                    assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} names {name}"


@every_page
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """Blocks of commands and programs are run by `test_docs_run.py` unless a comment gives a reason."""
    for block in blocks_of(page):
        assert block.language in (COMMANDS, PROGRAM, *DATA), f"{block}: no language, or one that no test knows"
        assert not block.not_run or block.language == COMMANDS, f"{block}: only commands may be left out"
        if block.language in DATA:
            for line in commands_of(block.text):
                assert not re.match(r"\$?\s*(zoo|make|pip) ", line), f"{block}: a command that is shown as data"
    indented = re.findall(r"^(?: {4}|\t)(?:zoo|make|pip|python) .*$", _prose(page), re.MULTILINE)
    assert not indented, f"commands outside of a fenced block: {indented}"


@every_page
def test_commands_exist_with_their_options(page: Path, commands: dict[str, click.Command]) -> None:
    """Of blocks that are not run, and of commands in running text."""
    lines = [line for block in blocks_of(page) if block.language == COMMANDS for line in commands_of(block.text)]
    lines += re.findall(r"`(zoo [^`]+)`", " ".join(_prose(page).split()))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert words[1] in targets, line
        if words[0] != "zoo" or words[1].startswith("-") or words[1].isupper() or words[1] in ("confused", "tally"):
            continue
        command = commands[words[1]]
        if isinstance(command, click.Group) and len(words) > 2:
            command = command.commands.get(words[2], command)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[2:]:
            if word.startswith("--") and word != "--help":
                assert word.split("=")[0] in known, (line, word)


def _prose(page: Path) -> str:
    """A page without its fenced blocks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in reversed(blocks_of(page)):
        for part in (block.output, block):
            if part is not None:
                del lines[part.first : part.last + 1]
    return "\n".join(lines)


# Tables of the reference


def test_strategies_of_the_reference_are_the_built_in_ones() -> None:
    section = read("reference/strategies.md").partition("## Built-in strategies")[2].partition("\n## ")[0]
    named = {name.partition(":")[0] for name in re.findall(r"^\| `([\w:.]+)", section, re.MULTILINE)}
    assert named == {entry.name for entry in Plugins().strategies}


def test_every_environment_variable_of_ours_is_in_the_reference() -> None:
    used = set()
    for root in ("zoo", "plugins", "exporters", "cli"):
        for file in (ROOT / root).rglob("*.py"):
            used |= set(re.findall(r"\bZOO_[A-Z_]+\b", file.read_text(encoding="utf-8")))
    assert used == set(re.findall(r"^\| `(ZOO_\w+)`", read("reference/environment.md"), re.MULTILINE))


def test_exit_codes_of_the_reference_are_those_of_the_errors() -> None:
    import zoo

    codes = dict(re.findall(r"^\| (\d+) \|.*`zoo\.(\w+)` \|$", read("reference/environment.md"), re.MULTILINE))
    assert codes == {"1": "ZooError", "2": "UsageError"}
    assert all(getattr(zoo, name).exit_code == int(code) for code, name in codes.items())


def test_runtimes_of_the_latency_page_are_those_that_are_registered() -> None:
    section = read("explanation/latency.md").partition("## The provider that ran")[2]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == {entry.name for entry in Plugins().runtimes}


def test_every_public_name_is_in_the_python_reference() -> None:
    import zoo

    told = "".join(generate.GENERATED[name]() for name in generate.GENERATED if name.startswith("api "))
    assert sorted(re.findall(r"::: zoo\.(\w+)", told)) == sorted(zoo.__all__)
    asked = re.findall(r"<!-- generated: (api \w+) -->", read("reference/python.md"))
    assert sorted(asked) == sorted(name for name in generate.GENERATED if name.startswith("api "))


def test_the_command_line_reference_has_every_command_and_option(commands: dict[str, click.Command]) -> None:
    text = generate.command_line()
    groups = [(name, command) for name, command in commands.items() if isinstance(command, click.Group)]
    inner = {f"{name} {word}": one for name, group in groups for word, one in group.commands.items()}
    assert {"plugins check", "plugins new"} <= set(inner)
    for name, command in {**commands, **inner}.items():
        section = text.partition(f"## `zoo {name}` {{")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert f"`{parameter.opts[0]}" in section, (name, parameter.opts[0])


def test_every_key_of_a_file_s_metadata_is_in_the_reference(exported_run: Path) -> None:
    model = onnx.load(str(exported_run / "model.onnx"))
    told = {name for name in keys_of(read("reference/exported-file.md")) if name.startswith("zoo.")}
    assert {entry.key for entry in model.metadata_props} | {"zoo.external", "zoo.unknown", "zoo.tta"} == told


def test_every_file_and_key_of_a_run_is_in_the_reference(exported_run: Path) -> None:
    keys = keys_of(read("reference/run-folder.md"))
    record = json.loads((exported_run / "run.json").read_text(encoding="utf-8"))
    assert set(record) <= keys
    for file in exported_run.iterdir():
        if file.suffix != ".onnx":
            assert re.sub(r"-(train|val|test)\.", "-SPLIT.", file.name) in keys


def test_the_ray_program_of_the_page_is_the_example() -> None:
    page = DOCS / "how-to/serve-on-many-machines.md"
    (block,) = [block for block in blocks_of(page) if block.title == "serve_with_ray.py"]
    assert (ROOT / "examples/serve_with_ray.py").read_text(encoding="utf-8").endswith(block.text)


# Code that pages show


def test_code_of_the_pages_is_formatted_as_ours(tmp_path: Path) -> None:
    programs = [block for page in PAGES for block in blocks_of(page) if block.language == PROGRAM]
    for number, block in enumerate(programs):
        (tmp_path / f"{number}_{block.page.stem.replace('-', '_')}.py").write_text(block.text, encoding="utf-8")
    ruff: list[str | Path] = [sys.executable, "-m", "ruff"]
    settings: list[str | Path] = ["--config", ROOT / "pyproject.toml", "--no-cache", tmp_path]
    # third parties' plugins lie below no source root of ours, and a program may import in the middle
    checks = [[*ruff, "format", "--diff", *settings], [*ruff, "check", "--ignore", "E402,I001,INP001", *settings]]
    for check in checks:
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_glossary_is_sorted_and_defines_each_word_once() -> None:
    words = [word.casefold() for word in re.findall(r"^\*\*(.+?)\*\*:", read("glossary.md"), re.MULTILINE)]
    assert len(words) > 25 and words == sorted(set(words))


# Architecture


def test_paths_on_the_architecture_page_exist() -> None:
    text = read("explanation/architecture.md")
    named = set(re.findall(r"`((?:zoo|plugins|exporters|cli|tests|docs|benchmarks)/[\w./-]+)`", text))
    for name in named:
        assert (ROOT / name).exists(), name
    for root in ("zoo", "plugins", "exporters", "cli"):
        packages = {str(file.parent.relative_to(ROOT)) for file in (ROOT / root).glob("*/__init__.py")}
        modules = {str(file.relative_to(ROOT)) for file in (ROOT / root).glob("[!_]*.py")}
        assert packages | modules <= named


def test_packages_of_the_architecture_stand_in_the_order_of_the_layers() -> None:
    text = read("explanation/architecture.md").partition("## Packages")[2].partition("| source root")[0]
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    place = {name.strip(): number for number, layer in enumerate(layers) for name in layer.split("|")}
    rows = [re.findall(r"`(zoo/\w+)(?:\.py)?`", line) for line in text.splitlines() if line.startswith("| `zoo/")]
    lowest = -1
    for row in rows:
        places = [place[name.replace("/", ".")] for name in row]
        assert min(places) > lowest, row
        lowest = max(lowest, *places)
    assert sorted(name.replace("/", ".") for row in rows for name in row) == sorted(place)


def test_every_command_has_a_row_in_the_readme() -> None:
    rows = "".join(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|")
    assert [name for name, _ in zoo_cli._ROWS if f"`zoo {name}`" not in rows] == []


def test_the_tree_of_the_readme_is_the_repository() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```text\n(zoo/.*?)```", text, re.MULTILINE | re.DOTALL)
    lines = tree.splitlines()
    assert len(lines) <= 15
    tops = {line.split()[0].rstrip("/") for line in lines if not line.startswith(" ")}
    tracked = {file.name for file in ROOT.iterdir() if file.is_dir() and any(file.rglob("*.py"))}
    assert {"zoo", "plugins", "exporters", "cli", "tests"} <= tops <= tracked | {"docs"}
    inside = {name.rstrip("/") for line in lines if line.startswith(" ") for name in re.findall(r"\w+/", line)}
    assert inside <= {file.name for file in (ROOT / "zoo").iterdir() if file.is_dir()}


# Comparing outputs


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("accuracy 0.889, 27 images in 8 s", "accuracy 0.852, 27 images in 13 s", True),
        ("accuracy 0.889, 27 images", "accuracy 0.389, 27 images", False),
        ("27 of 27 labels", "26 of 27 labels", False),
        ("27 of 27 labels", "27 of 27 labels\nmore", False),
        ("choice loss 0.1  200\nimages/s", "choice loss 0.2  9 images/s", True),
        ("┏━━┓\n┃ a┃\n┗━━┛", "┏━━━┓\n┃ a ┃\n┗━━━┛", True),
        ("device cpu bf16 (auto)\na", "device cpu fp32 (asked)\na", True),
        ("0.719-0.961", "0.700-0.950", True),
        ("SHA-256 0123456789abcdef", "SHA-256 fedcba9876543210", True),
        ("resnet18 is there", "resnet50 is there", False),
        ("ece 0.20", "ece 0.40", False),
        ("loss 2.00", "loss 3.20", False),
        ("seconds 3\nresnet18", "seconds 4\nresnet50", False),
    ],
)
def test_outputs_are_compared_by_words_and_figures(shown: str, found: str, same: bool) -> None:
    assert (docs_pages.difference(shown, found) is None) is same


def test_counts_and_lines_that_are_compared_are_those_that_a_page_asks_for() -> None:
    assert docs_pages.difference("27 of 30", "25 of 30", counts=2) is None
    assert docs_pages.difference("27 of 30", "25 of 30", counts=1) is not None
    assert docs_pages.difference("one\ntwo", "one\nthree", lines=1) is None
    assert docs_pages.difference("one\ntwo", "one\nthree", lines=2) is not None


PAGE = """# Title
<!-- given: photos -->

<!-- compared: the first 2 lines -->
<!-- counts may differ by 3 -->
```sh
zoo list
```

```text
out
```

```sh
zoo plugins
```

Words between.

```text
shown
```

<!-- not run: it needs a network -->
```sh
zoo train
```

```python title="a/b.py"
print(1)
```
"""


def test_blocks_are_read_as_the_page_has_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    first, second, shown, left_out, file = blocks_of(page)
    assert docs_pages.given(page) == ["photos"]
    assert (first.language, first.text, first.not_run, first.counts, first.compared) == ("sh", "zoo list\n", "", 3, 2)
    assert first.output is not None and first.output.text == "out\n"
    assert second.output is None and (shown.language, shown.text) == ("text", "shown\n")
    assert left_out.not_run == "it needs a network" and (file.title, file.language) == ("a/b.py", "python")


def test_most_blocks_of_the_pages_are_run_and_their_outputs_compared() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page) if block.language == COMMANDS]
    assert sum(not block.not_run for block in blocks) > len(blocks) / 2 > 30
    assert sum(block.output is not None and not block.not_run for block in blocks) >= 15


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("text", ["false\n", "zoo list nothing\n", "false | cat\n", "false\ntrue\n"])
def test_a_command_that_fails_fails_the_page(text: str, shell: bool, tmp_path: Path) -> None:
    for name in ("folder", "extras"):
        (tmp_path / name).mkdir()
    runner = docs_pages.Folder(tmp_path / "folder", tmp_path / "extras", shell=shell)
    with pytest.raises(AssertionError, match=r"README\.md:1"):
        runner.run(docs_pages.Block(ROOT / "README.md", 0, 2, COMMANDS, text))
    assert runner.run(docs_pages.Block(ROOT / "README.md", 0, 2, COMMANDS, "true\nprintf 1\n")) == "1"


def _cells(row: str) -> list[str]:
    """The cells of a table's row; a bar in code or behind a backslash divides none."""
    return re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "CODE", row))[1:-1]


def test_generated_tables_are_whole_and_show_defaults() -> None:
    for name, part in generate.GENERATED.items():
        width = 0
        for line in part().splitlines():
            assert not line.startswith("|") or not width or len(_cells(line)) == width, f"{name}: {line}"
            width = len(_cells(line)) if line.startswith("|") else 0
    train = generate.command_line().partition("## `zoo train` {")[2].partition("\n## ")[0]
    assert generate._cell("a | b\n  c") == "a \\| b c"
    (batch,) = re.findall(r"^\| `--batch-size .*$", train, re.MULTILINE)
    (patience,) = re.findall(r"^\| `--early-stopping .*$", train, re.MULTILINE)
    assert batch.endswith(" | 32 |") and patience.endswith(" | never |")


def test_generated_strategies_have_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from zoo_cli.main import run

    assert run(["list", "strategies", "--options", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    text = generate.strategy_options()
    sections = re.split(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE)
    of = dict(zip(sections[1::2], sections[2::2]))
    for row in told["options"]:
        default = "required" if row["required"] else f"`{row['default']}`"
        assert f"| `{row['option']}` | {row['type']} | {default} |" in of[row["strategy"]]
    for word in told["of_every_phase"]:
        assert f"| every strategy | | `{word['name']}` |" in text
    assert told["options"] and told["of_every_phase"]


def test_generated_pages_need_no_torch() -> None:
    program = """
import sys
sys.path.insert(0, "docs")
import generate
for part in generate.GENERATED.values():
    part()
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
