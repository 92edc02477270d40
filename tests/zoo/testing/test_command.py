"""The laws of commands hold for the built-in ones, and find those that break them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from with_row import with_row

from zoo.command import Command
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.testing import Violation, check_command

MODULE = '''
import click

@click.command()
@click.option("--top", help="How many.")
def good(top):
    """Count."""

@click.command()
def silent():
    pass

@click.command()
@click.option("--top", "-t")
def unexplained(top):
    """Count."""

@click.group()
def group():
    """Several."""

@group.command()
def inner():
    pass

def function():
    """No command."""
'''


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "strange_commands.py").write_text(MODULE)
    (folder / "heavy_command.py").write_text(f"import onnxruntime\n{MODULE}")
    (folder / "leaving_command.py").write_text("raise SystemExit(3)\n")
    (folder / "broken_command.py").write_text("import zoo_no_such_module\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def check(name: str, target: str) -> None:
    check_command(f"acme/{name}", plugins=with_row("commands", Command(name=name, summary="x", target=target)))


def test_built_in_commands(plugins: Plugins) -> None:
    for entry in plugins.commands:
        check_command(entry.qualified, plugins=plugins)


def test_a_good_command_passes() -> None:
    check("good-one", "strange_commands:good")


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("train", "strange_commands:good", ("`zoo train` runs `cli/train`", "`acme/train`", "choose another name")),
        ("-x", "strange_commands:good", ("`-x` is no name", "small letters")),
        ("Count", "strange_commands:good", ("`Count` is no name", "small letters")),
        ("count", "heavy_command:good", ("`zoo count --help` imports onnxruntime", "in the function")),
        ("count", "strange_commands:silent", ("`zoo count` has no help", "docstring")),
        ("count", "strange_commands:unexplained", ("`-t` has no help", "help=")),
        ("count", "strange_commands:group", ("`zoo count inner` has no help",)),
        ("count", "strange_commands:function", ("is a `function`", "not a `click.Command`", "@click.command()")),
        ("count", "leaving_command:good", ("ends the program",)),
        ("count", "broken_command:good", ("zoo_no_such_module",)),
        ("count", "strange_commands:nothing", ("cannot be loaded", "nothing")),
    ],
)
def test_a_broken_command_is_found(name: str, target: str, words: tuple[str, ...]) -> None:
    with pytest.raises((Violation, ZooError)) as caught:
        check(name, target)
    told = str(caught.value)
    assert all(word in told for word in words) and "\n" not in told.partition("\n\nhint: ")[0], told


def test_the_path_of_this_process_is_that_of_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit(1)\n")  # a user's file is not imported for a library's
    check("good", "strange_commands:good")
