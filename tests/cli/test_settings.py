"""Every setting of an experiment is an option, and says the same in Python and on the command line."""

from __future__ import annotations

import click
import pytest

from zoo import Experiment
from zoo.experiment import attribute_docs
from zoo_cli.settings import ORDER, settings_options


@click.command()
@settings_options
def nothing(**_: object) -> None: ...


@pytest.mark.parametrize("name", Experiment.__dataclass_fields__)
def test_help_of_an_option_is_the_docstring_of_its_setting(name: str) -> None:
    (option,) = [one for one in nothing.params if one.name == name]
    assert (
        isinstance(option, click.Option) and option.help is not None and option.opts == [f"--{name.replace('_', '-')}"]
    )
    said, _, meaning = attribute_docs(Experiment)[name].partition(" None: ")
    assert option.help.startswith(said) and meaning.rstrip(".") in option.help
    default = Experiment.__dataclass_fields__[name].default
    assert nothing.make_context("x", []).params[name] == (default if isinstance(default, (str, int, float)) else None)


def test_every_setting_has_an_option() -> None:
    assert sorted(ORDER) == sorted(Experiment.__dataclass_fields__)
