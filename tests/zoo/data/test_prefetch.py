"""Prefetching: a run finds the decoded pixels in the store; errors of the process do not affect the run."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import TINY

import zoo.data.decoding
import zoo.data.prefetch
from zoo import Plugins, train
from zoo.data.prefetch import Prefetch, start_prefetch
from zoo.storage.tensor_store import ROWS_SUFFIX, Store


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def finish(ahead: Prefetch | None) -> int:
    assert ahead is not None
    count: list[int] = []
    ahead.wait(count.append)
    ahead.stop()
    return sum(count)


def test_a_run_finds_what_was_decoded_ahead(two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy="linear", epochs=None)
    plain = train(replace(experiment, cache="off"), out=tmp_path / "plain")
    plugins = Plugins()
    plugins.backbones  # noqa: B018  # the catalogue, which the process ahead does not make
    assert finish(start_prefetch(experiment)) == 2 * (12 + 6)

    def refused(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(zoo.data.decoding, "decode", refused)
    ahead = start_prefetch(experiment)
    run = train(experiment, out=tmp_path / "run", ahead=ahead, plugins=plugins)
    finish(ahead)
    assert run.record["weights_sha256"] == plain.record["weights_sha256"]


def test_no_prefetch_without_a_store(two_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(TINY, data=str(two_splits))
    assert start_prefetch(replace(experiment, cache="off")) is None
    for budget in ("0", "no size"):
        monkeypatch.setenv("ZOO_CACHE_BUDGET", budget)
        assert start_prefetch(experiment) is None
    monkeypatch.setenv("ZOO_CACHE_BUDGET", "10K")
    assert finish(start_prefetch(experiment)) == 0


@pytest.mark.parametrize("wrong", [{"data": "no such folder"}, {"backbone": "no_such"}, {"strategy": "linear:x"}])
def test_errors_end_the_prefetch_process_only(two_splits: Path, wrong: dict[str, str]) -> None:
    experiment = replace(TINY, **{"data": str(two_splits), **wrong})  # type: ignore[arg-type]
    assert finish(start_prefetch(experiment)) == 0
    assert not Store().usage().entries


def test_stop_kills_the_prefetch_process(two_splits: Path) -> None:
    ahead = Prefetch(replace(TINY, data=str(two_splits)))
    ahead.stop()
    assert ahead._process.returncode is not None
    assert not list((Store().folder or Path()).glob(f"*/*{ROWS_SUFFIX}"))


def test_a_module_of_the_working_directory_is_not_run(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("random.py", "json.py", "zoo.py", "typing.py"):
        (tmp_path / module).write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    experiment = replace(TINY, data=str(two_splits), backbone="lite/efficientnet_lite0")  # needs no torch to be known
    assert finish(start_prefetch(experiment)) == 36
    assert not (tmp_path / "was run").exists()


def test_a_helper_that_hangs_is_given_up(
    two_splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stopped where it says nothing, also where it has said that it ends; training decodes by itself."""
    monkeypatch.setattr(zoo.data.prefetch, "PATIENCE", 0.2)
    experiment = replace(TINY, data=str(two_splits), strategy="linear", epochs=None)
    for program in ("import time; time.sleep(600)", "import os, time; os.close(1); time.sleep(600)"):
        with monkeypatch.context() as patch:
            patch.setattr(zoo.data.prefetch, "python_command", lambda target: [sys.executable, "-c", program])  # noqa: B023
            ahead = start_prefetch(experiment)
        assert ahead is not None and not ahead.wait()
        ahead.stop()
    with monkeypatch.context() as patch:
        patch.setattr(zoo.data.prefetch, "python_command", lambda target: [sys.executable, "-c", program])
        ahead = start_prefetch(experiment)
    with caplog.at_level("INFO", logger="zoo"):
        assert train(experiment, out=tmp_path / "run", ahead=ahead).status == "finished"
    assert ahead is not None
    ahead.stop()
    assert "decoded here" in caplog.text


def test_every_child_process_is_isolated() -> None:
    """A Python process is started with `python_command` alone, which keeps the working directory out of its path."""
    root = Path(__file__).parents[3]
    started = {}
    for folder in ("zoo", "plugins", "exporters", "cli"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and re.match(
                    r"subprocess\.|os\.(exec|spawn|system|popen)", ast.unparse(node.func)
                ):
                    started[file.relative_to(root).as_posix()] = ast.unparse(node.args[0])
                assert not (isinstance(node, ast.Import | ast.ImportFrom) and "multiprocessing" in ast.unparse(node)), (
                    file
                )
    # Slurm's commands, and Node.js
    others = {
        "zoo/studies/slurm_executor.py",
        *(f"plugins/zoo_runtimes/node_{one}.py" for one in ("process", "package")),
    }
    started = {file: command for file, command in started.items() if file not in others}
    assert {"zoo/data/prefetch.py", "zoo/serving/supervisor.py", "zoo/system/worker_process.py"} <= set(started)
    assert all(command.startswith("python_command(") for command in started.values())


def test_the_prefetch_process_keeps_freed_memory(two_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(Exception):
        pass

    def keep() -> None:
        raise Kept

    monkeypatch.setattr(zoo.data.prefetch, "keep_freed_memory", keep)
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))  # `main` hides it
    monkeypatch.setattr(os, "nice", lambda value: value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(replace(TINY, data=str(two_splits)).to_json())))
    with pytest.raises(Kept):
        zoo.data.prefetch.main()
