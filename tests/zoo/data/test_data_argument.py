"""The grammar of a dataset's argument: what is written can be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zoo.data.data_argument import Argument, Kind, braces, parse_argument

OPTIONS: dict[str, Kind] = {"path": "text", "root": "path"}
TEXT = st.text(st.sampled_from("ab =,'\"{}\\:/.é"), min_size=1).filter(lambda text: text == text.strip())


@given(st.lists(TEXT, max_size=3), st.dictionaries(st.sampled_from(["path", "root"]), TEXT))
def test_an_argument_that_is_written_is_read_again(files: list[str], options: dict[str, str]) -> None:
    argument = Argument(dataset="csv", files=tuple(files), options=options)
    assert parse_argument("csv", str(argument), OPTIONS) == argument


def test_parts_that_look_like_options() -> None:
    found = parse_argument(
        "csv", r"C:\my data\a=b.csv, data/c=d.csv ,{x,y}.csv, path = it's,root=\\server\share", OPTIONS
    )
    assert found.files == (r"C:\my data\a=b.csv", "data/c=d.csv", "{x,y}.csv")
    assert found.options == {"path": "it's", "root": r"\\server\share"}


def test_braces_stand_for_several_names() -> None:
    assert list(braces("s-{008..010}.{a,b}")) == [f"s-{n}.{x}" for n in ("008", "009", "010") for x in "ab"]
    assert list(braces("s-{8..10}")) == ["s-8", "s-9", "s-10"] and list(braces("no{brace")) == ["no{brace"]
