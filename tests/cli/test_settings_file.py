"""Settings files: what `--print-config` prints gives the same run, and what is wrong in a file is said in a line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import Experiment, UsageError
from zoo.plugin import Plugins
from zoo_cli.main import run
from zoo_cli.settings_file import NO_SETTINGS, PATHS, checked, config_text, converted, options
from zoo_cli.train import train

NEEDED = 'data = "photos"\nbackbone = "resnet18"\nstrategy = "linear"\n'


def zoo(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def read_back(file: Path, plugins: Plugins, *words: str) -> dict[str, Any]:
    """The settings that `zoo train FILE` would train with."""
    root = click.Context(click.Group("zoo"), obj=plugins)
    with train.make_context("train", [str(file), *words], parent=root) as context:
        return {name: context.params[name] for name in Experiment.__dataclass_fields__}


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values of a setting, by its type and its option."""
    kind = get_type_hints(Experiment)[name]
    words = [one for part in (kind, *get_args(kind)) if get_origin(part) is not None for one in get_args(part)]
    special: dict[str, st.SearchStrategy[Any]] = {
        "lr": st.just("find") | st.floats(1e-12, 1e3),
        "image_size": st.integers(8, 4096) | st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
        "levels": st.tuples(st.floats(-1e9, 0), st.floats(1, 1e9)),
        "workers": st.integers(1, 256),
        "group": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
        "folds": st.integers(2, 1000),
        "unknown_rate": st.none(),
        "fill": st.none(),
        "data": st.sampled_from(["hf:some/set@1", "/somewhere/é \\ \"quoted\" 'too'", "csv:/a.csv,path=file"]),
        "backbone": st.sampled_from(["resnet18", "timm/test_resnet"]),
        "strategy": st.sampled_from(["linear,epochs=2+full,lr=0.1", "partial:2"]),
        "weights": st.sampled_from(["default", "none", "imagenet"]),
        "augment": st.sampled_from(["rand:5,least=0.3", "none"]),
        "loss": st.sampled_from(["focal:2", "acme/mixed,strength=0.5"]),
        "device": st.sampled_from(["cpu", "cuda:1"]),
        "exclude": st.none() | st.just("/lists/\t#[a] = 'b'\n.csv"),
    }
    if name in special:
        return special[name]
    if bool in (kind,):
        return st.booleans()
    if any(isinstance(word, str) for word in words):
        return st.sampled_from([word for word in words if isinstance(word, str)])
    if str in (kind, *get_args(kind)) or get_origin(kind) is tuple:
        return st.just(Experiment.__dataclass_fields__[name].default)
    return st.integers(1, 500) if int in (kind, *get_args(kind)) else st.floats(1e-6, 0.89) | st.just(1e-05)


SETTINGS = st.fixed_dictionaries(
    {name: values_of(name) for name in ("data", "backbone", "strategy")},
    optional={name: values_of(name) for name in list(Experiment.__dataclass_fields__)[3:]},
)


@given(settings=SETTINGS)
def test_a_printed_file_read_back_gives_the_same_settings(
    settings: dict[str, Any], plugins: Plugins, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if settings.get("time_budget") is not None:
        settings["time_budget"] += 1
    asked = Experiment(**settings)
    file = tmp_path_factory.getbasetemp() / "printed.toml"
    with click.Context(train) as context:
        file.write_text(config_text(context, asked.to_json(), plugins), encoding="utf-8")
    assert Experiment(**read_back(file, plugins)) == asked


def test_every_option_of_train_is_a_key_or_asks_for_something_once() -> None:
    names = {str(one.name) for one in train.params}
    assert set(options()) | set(NO_SETTINGS) - {"help"} == names
    assert set(Experiment.__dataclass_fields__) <= set(options())
    assert list(options())[:3] == ["data", "backbone", "strategy"]  # what matters stands first in the help
    paths = {name for name, one in options().items() if PATHS.search(one.metavar or "")}
    assert paths == {"data", "strategy", "weights", "from_run", "exclude", "out", "splits"}


def test_the_command_line_wins_and_relative_paths_are_beside_the_file(
    capsys: pytest.CaptureFixture[str],
    plugins: Plugins,
    two_splits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "photos").symlink_to(two_splits)
    file = tmp_path / "run.toml"
    file.write_text(NEEDED + 'lr = 0.1\nepochs = 3\nweights = "w/a.pth"\nexclude = "../e.csv"\ntime_budget = "2h"\n')
    monkeypatch.chdir(tmp_path / "here")
    found = read_back(Path("../run.toml"), plugins, "--lr", "find", "--device", "cpu")
    assert Path(found["data"]).samefile(two_splits) and found["weights"] == str(tmp_path / "here" / "../w/a.pth")
    assert os.path.normpath(found["exclude"]) == str(tmp_path.parent / "e.csv")
    assert (found["lr"], found["epochs"], found["time_budget"], found["device"]) == ("find", 3, 7200.0, "cpu")
    # a folder of that name in the current folder is another one
    (tmp_path / "photos").unlink()
    (tmp_path / "here" / "photos").symlink_to(two_splits)
    assert read_back(file, plugins)["data"] == str(tmp_path / "photos")
    file.write_text(NEEDED)
    code, _, err = zoo(capsys, "train", file, "--backbone", "timm/test_resnet", "--weights", "none")
    assert code and str(tmp_path / "photos") in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("epoch = 3", "`{file}`: unknown setting `epoch`\n\nhint: did you mean `epochs`"),
        ("batch-size = 3", "unknown setting `batch-size`\n\nhint: did you mean `batch_size`"),
        ("epochs = 2.5", "`{file}`: `epochs` is `2.5`, not a whole number"),
        ('epochs = "3"', '`epochs` is `"3"`, not a whole number\n\nhint: write `epochs = 3`, without quotes'),
        ("epochs = true", "`epochs` is `true`, not a whole number"),
        ('lr = "fast"', '`lr` is `"fast"`, not a number or `"find"`'),
        ("compile = 1", "`compile` is `1`, not true or false"),
        ("device = 0", "`device` is `0`, not a text in quotes"),
        ("levels = [1]", "`levels` is `[1]`, not a list of 2 numbers"),
        ("fill = [1, 2, 3.5]", "`fill` is `[1, 2, 3.5]`, not a list of 3 whole numbers"),
        ('keep = "first"', "`{file}`: `keep`: `first` is not one of `last`"),
        ('time_budget = "soon"', "`{file}`: `time_budget`: soon is not a duration"),
        ("batch_size = 0", "`{file}`: `--batch-size 0` is outside 1 to 1,000,000"),
        ("lr = nan", "`{file}`: `--lr nan` is not a number"),
        ("seed = 2030-01-01", "`seed` is `2030-01-01`, not a whole number"),
        ("force = true", "`{file}`: `force` is no setting of a run and cannot stand in the file"),
        ("[train]\nlr = 1", "`[train]` is a table, and settings stand in none"),
        ("lr = 1\nlr = 2", "`{file}` cannot be read as TOML: Cannot overwrite a value"),
        ("lr = fast", "`{file}` cannot be read as TOML: Invalid value"),
        ("epoch = 1\nwarm = 2", "unknown setting `epoch`; `{file}`: unknown setting `warm`"),
        ('weights = "https://me:hunter2@host/w.pth"', "`weights` of `{file}` has an address with a password"),
        ('splits = ["s3://b/x?token=hunter2"]', "`splits` of `{file}` has an address with a password or a signature"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lines: str, told: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(NEEDED + lines)
    code, out, err = zoo(capsys, "train", file)
    assert (code, out) == (2, "") and told.format(file=file) in err, err
    assert "hint: " in err and "Traceback" not in err and "hunter2" not in err


def test_what_is_no_file_of_settings_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1}')
    (tmp_path / "latin.toml").write_bytes(NEEDED.encode() + b"# \xe9")
    (tmp_path / "twice.toml").write_bytes(b"\xef\xbb\xbf" + f"{NEEDED}lr = 1\nlr = 2\n".replace("\n", "\r\n").encode())
    (tmp_path / "tables.toml").write_text(f"{NEEDED}[a]\n[a]\n")
    for words, told in (
        ([tmp_path / "none.toml"], "there is no settings file"),
        ([tmp_path], "is a folder, not a settings file"),
        ([tmp_path / "latin.toml"], "it is not text in UTF-8"),
        ([tmp_path / "run.json"], "cannot be read as TOML"),
        ([tmp_path / "twice.toml"], "`lr` stands there twice (line 5)\n\nhint: leave one of them out"),
        ([tmp_path / "tables.toml"], "`[a]` stands there twice (line 5)"),
        (["--print-config", "--resume", tmp_path], "`--print-config` cannot be given with `--resume`"),
        (["--print-config", "--backbone", "resnet18", "--lr", "0"], "`--lr 0` is outside"),
        (["--print-config", "--data", "s3://a:hunter2@b/c"], "has an address with a password"),
    ):
        code, out, err = zoo(capsys, "train", *words)
        assert (code, out) == (2, "") and told in err and "hunter2" not in err, err


def test_printed_settings_without_data_are_a_template(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugins: Plugins, two_splits: Path
) -> None:
    code, text, err = zoo(capsys, "train", "--print-config", "--threads", "1", "--out", tmp_path / "x")
    assert (code, err) == (0, "") and "\n# data =\n" in text and "\nlr = 0.005\n" in text
    assert f'\nout = "{tmp_path / "x"}"\n' in text and "\nthreads = 1\n" in text
    assert text.count("[default: 0.005]") == 1 and "Known are last best. [default: last]" in text
    file = tmp_path / "all.toml"
    file.write_text(text)
    found = read_back(file, plugins, "--data", str(two_splits), "--backbone", "resnet18", "--strategy", "linear")
    assert Experiment(**found) == replace(
        Experiment(data=str(two_splits), backbone="resnet18", strategy="linear"), fraction=1.0
    )


def test_plan_takes_the_same_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    lines = 'backbone = "timm/test_resnet"\nstrategy = "partial:1"\nimage_size = 32\nout = "x"\nthreads = 1\n'
    file.write_text(lines)
    code, _, err = zoo(capsys, "plan", file, "--strategy", "linear")
    assert code == 0 and "linear on timm/test_resnet, 32 pixels" in err


def test_an_option_that_may_be_repeated_is_a_list(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No setting is one yet; a plugin's rows that are given together would be."""
    option = click.Option(["--note"], multiple=True, metavar="FILE")
    monkeypatch.setattr("zoo_cli.settings_file.options", lambda: {"note": option})
    with click.Context(train) as context:
        file = str(tmp_path / "run.toml")
        found = checked(context, {"note": ["a", "/b"]}, file, plugins)["note"]
        assert found == [str(tmp_path / "a"), "/b"] and converted(context, option, found, "") == (*found,)
        for wrong in ("a", [1]):
            with pytest.raises(UsageError, match="not a list, each of it a text in quotes"):
                checked(context, {"note": wrong}, file, plugins)


def test_exact_is_printed_and_read(
    capsys: pytest.CaptureFixture[str], plugins: Plugins, exported_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    for words, value in (([], "true"), (["--fast"], "false")):
        code, out, _ = zoo(capsys, "train", "--data", "x", "--backbone", "resnet18", "--print-config", *words)
        assert code == 0 and f"\nexact = {value}\n" in out
        file.write_text(out)
        root = click.Context(click.Group("zoo"), obj=plugins)
        with train.make_context("train", [str(file)], parent=root) as context:
            assert context.params["exact"] == (value == "true")
    code, out, _ = zoo(capsys, "rerun", exported_run, "--print-config")
    assert code == 0 and "\nexact = true\n" in out
