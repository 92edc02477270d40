"""`zoo plugins check`: every mistake of a plugin is one line that names it, with a hint, and exit code 1."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo_cli.main import run

HEAD = "import zoo\nfrom zoo import hookimpl\n"
GOOD = """
@hookimpl
def register_metrics(register):
    register(zoo.Metric(name="half", summary="x", compute="zoo_strange_rows:half"))
"""
ROWS = """
def half(table):
    return 0.5
def first(table):
    return float(table.correct[0])
def raising(table):
    return {}["column"]
def asserting(table):
    assert False
def leaving(table):
    raise SystemExit(3)
"""
METRIC = 'zoo.Metric(name="{name}", summary="x", compute="zoo_strange_rows:{function}")'


def hook(body: str, name: str = "register_metrics", arguments: str = "register") -> str:
    return f"{HEAD}\n@hookimpl\ndef {name}({arguments}):\n    {body}\n"


def metric(function: str, name: str = "odd") -> str:
    return METRIC.format(name=name, function=function)


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    """A package in a folder is put on `sys.path`, and its modules stay: each test has its own."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("zoo_strange")]:
        del sys.modules[name]


def package(folder: Path, text: str) -> Path:
    (folder / "zoo_strange.py").write_text(text)
    (folder / "zoo_strange_rows.py").write_text(ROWS)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "strange-dist"\nversion = "2"\n'
        '[project.entry-points."zoo.plugins"]\nstrange = "zoo_strange"\n'
    )
    return folder


def check(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, list[str], str]:
    """Exit code, lines about rows that are not as they should be, and all of stderr."""
    capsys.readouterr()
    code = run(["plugins", "check", str(folder), *words])
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    return code, [line for line in told.err.splitlines() if line.startswith(("violated", "not checked"))], told.err


def test_a_good_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, wrong, err = check(capsys, package(tmp_path, HEAD + GOOD))
    assert code == 0 and wrong == []
    assert "passed      plugin strange" in err and "passed      metric half" in err
    assert "2 rows, 0 laws violated" in err


BROKEN = {
    "missing": ("import zoo_no_such_module\n", "plugin strange", ("cannot be loaded", "zoo_no_such_module")),
    "syntax": ("def (\n", "plugin strange", ("cannot be loaded", "SyntaxError")),
    "leaves": ("raise SystemExit(3)\n", "plugin strange", ("cannot be loaded", "SystemExit")),
    "signature": (hook("pass", arguments="rows"), "plugin strange", ("cannot be loaded", "rows")),
    "misspelt": (hook("pass", "register_metric"), "plugin strange", ("`register_metric`", "`register_metrics`")),
    "unmarked": (hook("pass").replace("@hookimpl\n", ""), "plugin strange", ("not marked", "@zoo.hookimpl")),
    "raises": (hook("raise KeyError('x')"), "plugin strange", ("`register_metrics`", "KeyError")),
    "empty": (HEAD, "plugin strange", ("registers nothing",)),
    "generator": (hook(f"yield {metric('half')}"), "plugin strange", ("`register_metrics` gives", "call `register`")),
    "list": (hook(f"return [{metric('half')}]"), "plugin strange", ("`register_metrics` gives", "call `register`")),
    "coroutine": (
        hook(f"register({metric('half')})").replace("def register", "async def register"),
        "plugin strange",
        ("`register_metrics` gives", "coroutine"),
    ),
    "twice": (
        hook(f"register({metric('half')}); register({metric('half')})"),
        "plugin strange",
        ("registered twice", "`odd`"),
    ),
    "wrong row": (hook("register(zoo.Command(name='x', summary='x', target='a:b'))"), "plugin strange", ("a metric",)),
    "no row": (hook("register(None)"), "plugin strange", ("a metric", "None")),
    "bounds": (
        hook(
            "register(zoo.Loss(name='x', summary='x', target='a:b', "
            "options=(zoo.Option(name='p', default=3, summary='x', high=2),)))",
            "register_losses",
        ),
        "plugin strange",
        ("option `p`", "default 3", "bounds"),
    ),
    "heavy": (f"import onnxruntime\n{HEAD}{GOOD}", "plugin strange", ("imports onnxruntime", "--help")),
    "law": (hook(f"register({metric('first')})"), "metric odd", ("order of the images",)),
    "error": (hook(f"register({metric('raising')})"), "metric odd", ("KeyError: 'column'", "zoo_strange_rows.py:7")),
    "assertion": (hook(f"register({metric('asserting')})"), "metric odd", ("AssertionError", "zoo_strange_rows.py:9")),
    "exit": (hook(f"register({metric('leaving')})"), "metric odd", ("SystemExit", "3")),
    "no function": (hook(f"register({metric('nothing')})"), "metric odd", ("nothing", "cannot be loaded")),
    "no module": (
        hook("register(zoo.Metric(name='odd', summary='x', compute='zoo_strang:half'))"),
        "metric odd",
        ("zoo_strang", "cannot be loaded"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_mistake_is_one_line_with_a_hint(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, row, words = BROKEN[name]
    code, wrong, err = check(capsys, package(tmp_path, text))
    assert code == 1 and len(wrong) == 1, err
    assert wrong[0].startswith(f"violated    {row}: "), wrong
    assert all(word in wrong[0] for word in words), wrong
    following = err.splitlines()[err.splitlines().index(wrong[0]) + 1]
    assert following.strip().startswith("hint: "), err


def test_a_package_that_is_missing_is_no_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = package(tmp_path, hook("register(zoo.Metric(name='odd', summary='x', compute='zoo_strange_more:half'))"))
    (folder / "zoo_strange_more.py").write_text("import zoo_no_such_module\n")
    code, wrong, err = check(capsys, folder)
    assert code == 0 and "1 row not checked" in err
    assert wrong == ["not checked metric odd: it needs `zoo_no_such_module`, which is not installed"]


def test_rows_of_a_partly_broken_plugin_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + GOOD + "\n@hookimpl\ndef register_losses(register):\n    raise RuntimeError('out of honey')\n"
    code, wrong, err = check(capsys, package(tmp_path, text))
    assert code == 1 and len(wrong) == 1 and "out of honey" in wrong[0] and "passed      metric half" in err


def test_a_name_of_another_plugin_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, wrong, err = check(capsys, package(tmp_path, hook(f"register({metric('half', 'accuracy')})")))
    assert code == 0 and wrong == []
    assert "the short name means `metrics/accuracy`; this one is `strange/accuracy`" in err


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + GOOD + f"    register({metric('first')})\n"
    code = run(["plugins", "check", str(package(tmp_path, text)), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 1 and told["passed"] is False
    assert [(row["kind"], row["name"], row["status"]) for row in told["rows"]] == [
        ("plugin", "strange", "passed"),
        ("metric", "half", "passed"),
        ("metric", "odd", "violated"),
    ]
    assert told["rows"][2]["reason"] and told["rows"][2]["hint"] and told["rows"][0]["hint"] is None
    assert run(["plugins", "check", str(tmp_path), "--json", "--only", "metric/h*"]) == 0


def test_a_strategy_is_checked_on_the_backbone_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plugins", "check", "strategies", "--only", "strategy/linear", "--json", "--backbone"]
    assert run([*words, "timm/test_resnet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["status"] == "passed"
    assert run([*words, "test_efficientne"]) == 2
    assert "`test_efficientnet" in capsys.readouterr().err


def test_a_strategy_that_needs_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plugins", "check", "strategies", "--only", "strategy/partial", "--json"]
    for more, status in (([], "not checked"), (["--strategy", "partial:1"], "passed")):
        assert run([*words, *more]) == 0
        assert json.loads(capsys.readouterr().out)["rows"][0]["status"] == status


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "strategies", "--strategy", "partia:1"], ("no strategy `partia`", "`partial`")),
        (["check", "metric"], ("no plugin `metric`", "`metrics`")),
        (["check", "metrics", "--only", "loss"], ("nothing like `loss`", "metric/accuracy")),
        (["check", "metrics", "--only", "metric/acuracy"], ("`metric/acuracy`", "`metric/accuracy`")),
        (["check", "datasets", "--data", "digit:x"], ("no dataset `digit`", "`digits`")),
        (["check", "./nowhere"], ("nowhere", "pyproject.toml")),
        (["check"], ("NAME|FOLDER",)),
        (["chek"], ("`plugins chek`", "`check`")),
        (["--json", "check", "metrics"], ("`--json`", "zoo plugins check ... --json")),
    ],
)
def test_a_wrong_command_line(words: list[str], told: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", *words]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in told) and "hint: " in err, err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[project]\nname = 'x'\n", "entry point"),
        ("[project\n", "cannot be read"),
        ("project = 3\n", "entry point"),
        ("[project]\nentry-points = 3\n", "entry point"),
        ('[project.entry-points."zoo.plugins"]\na = 3\n', "`a = 3` names no module"),
        ('[project.entry-points."zoo.plugins"]\n"" = "zoo_a"\n', "names no module"),
        ('[project.entry-points."zoo.plugins"]\nlite = "zoo_a"\n', "`lite` belongs to a plugin of `backbone-zoo`"),
        ("[project]\nname = 'x'\nentry-points = {'zoo.plugins' = 3}\n", "entry point"),
    ],
)
def test_a_folder_without_a_plugin(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert run(["plugins", "check", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_an_entry_point_that_names_no_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '[project]\nname = "x"\n[project.entry-points."zoo.plugins"]\nodd = "not a module!"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    assert run(["plugins", "check", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "`odd = 'not a module!'` names no module" in err and "NoneType" not in err


def test_a_module_of_two_names_stays_registered_under_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = package(tmp_path, HEAD + GOOD)
    with (folder / "pyproject.toml").open("a") as file:
        file.write('stranger = "zoo_strange"\n')
    assert run(["plugins", "check", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "passed      metric half" in err and "violated    plugin stranger" in err
    assert "registers nothing" not in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os\nos._exit(3)\n", "status 3"),
        ("import os\nos._exit(0)\n", "status 0"),
        ("import os\nos.kill(os.getpid(), 9)\n", "signal 9"),
        ("import time\ntime.sleep(30)\n", "not done after 0.5 seconds"),
    ],
    ids=["leaves", "leaves well", "killed", "hangs"],
)
def test_a_module_that_ends_or_keeps_the_process(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.testing.plugin_folder.START_SECONDS", 0.5 if "sleep" in text else 60)
    assert run(["plugins", "check", str(package(tmp_path, text))]) == 1
    err = capsys.readouterr().err
    assert "violated    plugin strange" in err and told in err and "hint" in err, err


def test_a_disabled_plugin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "metrics")
    assert run(["plugins", "check", "metrics"]) == 2
    assert "ZOO_DISABLE_PLUGINS" in capsys.readouterr().err


def test_data_of_a_dataset(two_splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plugins", "check", "datasets", "--only", "dataset/folder", "--json"]
    for more, status in (([], "not checked"), (["--data", f"folder:{two_splits}"], "passed")):
        assert run([*words, *more]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["status"] == status, row
    assert run([*words, "--data", "folder:nowhere"]) == 1  # what is asked for is not passed over
    assert "`nowhere`" in json.loads(capsys.readouterr().out)["rows"][0]["reason"]
