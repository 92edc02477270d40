"""`zoo plugins new`: what it writes passes the laws as it is, and what it cannot write is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from messages import unsaid
from with_row import PROVIDER

from zoo.plugin import KINDS, Plugins
from zoo.scaffolding.package import TEMPLATES, nouns
from zoo_cli.main import run

EVERY = [
    "backbone", "strategy", "dataset", "augmentation", "loss", "optimizer", "schedule", "callback", "metric",
    "exporter", "runtime", "command",
]  # fmt: skip


def new(*words: str) -> int:
    return run(["plugins", "new", *words])


def test_there_is_a_template_for_every_kind(plugins: Plugins) -> None:
    assert list(nouns(plugins)) == EVERY and list(nouns(plugins).values()) == list(KINDS)
    kinds = {file.name.removesuffix(".j2") for file in TEMPLATES.glob("*.j2")}
    assert kinds == {*EVERY, "pyproject.toml", "README.md", "init.py", "tests.py"}


def installed(package: Path, site: Path) -> dict[str, str]:
    """Install a package by pip; returns the environment of a process that finds it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", site, package], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


# One process, which imports torch once: the laws by `zoo plugins check`, then the package's own tests
BOTH = """
import sys, pytest
from zoo_cli.main import run
codes = [run(["plugins", "check", sys.argv[1], "--json"])]
codes += [int(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]]))]
print("codes", codes, file=sys.stderr)
"""


@pytest.mark.parametrize("kinds", [["metric", "command"], pytest.param(["all"], marks=pytest.mark.slow)], ids="-".join)
def test_a_new_package_is_installed_and_passes(
    kinds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new("my-own", *(word for kind in kinds for word in ("--kind", kind)), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "backbone-zoo-my-own" and len(told["commands"]) == (12 if kinds == ["all"] else 2)
    package = tmp_path / told["folder"]
    assert sorted(told["files"]) == sorted(str(file.relative_to(package)) for file in package.rglob("*.*"))
    environ = installed(package, tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", BOTH, "my-own", str(package / "tests")],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "codes [0, 0]" in done.stderr and "Traceback" not in done.stderr, (done.stdout, done.stderr)
    rows = json.loads(done.stdout[: done.stdout.rindex("}\n") + 1])["rows"]
    wanted = EVERY if kinds == ["all"] else kinds
    assert [row["kind"] for row in rows] == ["plugin", *wanted]
    assert [row["kind"] for row in rows if row["status"] != "passed"] == [one for one in wanted if one == "dataset"]
    assert f"{len(wanted)} passed" in done.stdout


def test_what_is_written_is_tidy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "deep" / "down"
    assert new("tidy", "--kind", "all", "--out", str(package)) == 0
    err = capsys.readouterr().err
    assert f"pip install -e '{package}[dev]'" in err and "zoo plugins check tidy" in err
    assert f"python -m pytest {package}" in err and "runs/first" not in err  # which nothing has made
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["zoo.plugins"] == {"tidy": "zoo_tidy"}
    assert list(package.parent.iterdir()) == [package]  # nothing is left of what was being written
    for file in package.rglob("*.*"):
        text = file.read_text()
        assert text.endswith("\n") and not text.endswith("\n\n") and "{{" not in text and "{%" not in text, file
    for words in (["check", "--select", "E,F,I,W"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--isolated", "--config", "line-length = 120", "."]
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_kinds_are_written_once_and_in_order(tmp_path: Path) -> None:
    words = ["--kind", "metric", "--kind", "strategy", "--kind", "metric", "--out", str(tmp_path / "x")]
    assert new("twice", *words) == 0
    text = (tmp_path / "x" / "zoo_twice" / "__init__.py").read_text()
    assert text.count("def register_metrics") == 1
    assert text.index("def register_strategies") < text.index("def register_metrics")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["My_Acme"], ("`My_Acme`", "`my-acme`")),
        (["a--b"], ("`a--b`", "`a-b`")),
        (["9lives"], ("`9lives`", "`lives`")),
        (["-a"], ("`-a`",)),
        ([""], ("no name for a plugin",)),
        (["../acme"], ("`../acme`", "`acme`")),
        (["é"], ("`é`",)),
        (["x" * 41], ("no name for a plugin",)),
        (["timm"], ("a plugin `timm` is installed", "`backbone-zoo`")),
        (["backbone-zoo-acme"], ("`backbone-zoo-acme`", "`acme`")),
        (["acme", "--kind", "strat"], ("unknown kind `strat`", "did you mean `strategy`")),
        (["acme", "--kind", "metrics"], ("unknown kind `metrics`", "`metric`")),
        (["focal", "--kind", "loss"], ("a loss `losses/focal`", "another name")),
        (["train", "--kind", "command"], ("a command `cli/train`", "another name")),
        (["acme", "--kind", "all", "--kind", "strat"], ("unknown kind `strat`", "did you mean `strategy`")),
        (["none", "--kind", "augmentation"], ("an augmentation `augmentations/none`",)),
        (["serve"], ("`backbone-zoo-serve` is a package of zoo itself", "another name")),
        (["on-nx", "--kind", "exporter"], ("`.onnx` are opened by `onnx/onnx`", "another name")),
        (["acme", "--out", "s3://bucket/acme"], ("`--out` is a URL, `s3://bucket/acme`", "local folder")),
        (["acme", "--out", "there"], ("`there` exists", "`--out`")),
        (["acme", "--out", "file"], ("`file` exists", "`--out`")),
        (["acme", "--out", "file/below"], ("file",)),
        ([], ("NAME",)),
    ],
)
def test_what_cannot_be_written(
    words: list[str],
    told: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert new(*words) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and "Traceback" not in err and not unsaid(err, *told), err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "there"]


def test_nothing_is_left_where_writing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    assert new(PROVIDER, "--out", str(tmp_path / "x")) == 1
    assert "no space left" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
