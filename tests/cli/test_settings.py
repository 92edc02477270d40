"""Every setting of an experiment is an option, and says the same in Python and on the command line."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin, get_type_hints

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
    flag = "--from" if name == "from_run" else f"--{name.replace('_', '-')}"  # `from` is a keyword of Python
    assert isinstance(option, click.Option) and option.help is not None and option.opts == [flag]
    said, _, meaning = attribute_docs(Experiment)[name].partition(" None: ")
    assert option.help.startswith(said) and meaning.rstrip(".") in option.help
    default = Experiment.__dataclass_fields__[name].default
    assert nothing.make_context("x", []).params[name] == (
        default if isinstance(default, (str, int, float, tuple)) else None
    )


@pytest.mark.parametrize("name", Experiment.__dataclass_fields__)
def test_the_help_shows_defaults_and_the_words_that_are_known(name: str) -> None:
    (option,) = [one for one in nothing.params if one.name == name]
    record = option.get_help_record(click.Context(nothing))
    assert record is not None
    default, kind = Experiment.__dataclass_fields__[name].default, get_type_hints(Experiment)[name]
    if isinstance(default, (str, int, float)) and kind is not bool:
        assert f"[default: {default}" in record[1]
    assert ("[default: " in record[1]) == (name not in ("data", "backbone", "strategy", "compile"))
    if get_origin(kind) is Literal:
        assert record[0] == f"--{name.replace('_', '-')} [{'|'.join(get_args(kind))}]"
        with pytest.raises(click.BadParameter, match=get_args(kind)[0]):
            nothing.make_context("x", [option.opts[0], "nothing"])


def test_the_help_names_values_and_where_more_is_told() -> None:
    told = nothing.get_help(click.Context(nothing, terminal_width=1000, max_content_width=1000))
    for line in ("--weights default|none|TAG|FILE", "--early-stopping EPOCHS", "--lr FLOAT|find", "--time-budget TIME"):
        assert re.search(rf"^  {re.escape(line)}( |$)", told, re.MULTILINE), line
    for plural in ("datasets", "backbones", "strategies"):
        assert f"See `zoo list {plural}`." in told
    assert "30m and 2h are understood" in told and "See `zoo cache`." in told
    assert [option.name for option in nothing.params] == list(ORDER)


def test_every_setting_has_an_option() -> None:
    assert sorted(ORDER) == sorted(Experiment.__dataclass_fields__)
