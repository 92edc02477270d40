"""Plugin packages as users get them: installed by pip, good and broken, side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import hookspecs

ACME = Path(__file__).parent / "packages" / "backbone-zoo-acme"

# name -> (module's text, what `zoo plugins` must say)
BROKEN = {
    "missing": ("import zoo_no_such_module\n", "No module named 'zoo_no_such_module'"),
    "signature": (
        "import zoo\n\n@zoo.hookimpl\ndef register_backbones(backbones):\n    pass\n",
        "can not be found in the hookspec",
    ),
    "misspelt": (
        "import zoo\n\n@zoo.hookimpl\ndef register_backbone(register):\n    pass\n",
        "did you mean `register_backbones`",
    ),
    "raising": (
        "import zoo\n\n@zoo.hookimpl\ndef register_strategies(register):\n    raise RuntimeError('out of honey')\n",
        "RuntimeError: out of honey",
    ),
    "clash": (
        "import zoo\n\n@zoo.hookimpl\ndef register_backbones(register):\n"
        "    register(zoo.Backbone(name='resnet18', summary='mine', build='x:y'))\n",
        "this one is `clash/resnet18`",
    ),
}


def write_package(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / f"zoo_{name}.py").write_text(text)
    project = (ACME / "pyproject.toml").read_text().replace("acme", name)
    (folder / "pyproject.toml").write_text(
        project.replace("packages = [", "include = [").replace(f'"zoo_{name}"]', f'"zoo_{name}.py"]')
    )
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all six packages, installed by pip, to be put on PYTHONPATH."""
    root = tmp_path_factory.mktemp("packages")
    sources = [shutil.copytree(ACME, root / "acme")]
    sources += [write_package(root / name, name, text) for name, (text, _) in BROKEN.items()]
    target = root / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", target, *sources],
        check=True,
    )  # fmt: skip
    return target


def beside(site: Path, **more: str) -> dict[str, str]:
    """The environment of a process that finds the packages first, and then what this process finds."""
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "300", **more}


def zoo(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "zoo_cli.main", *map(str, arguments)],
        env=beside(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_broken_plugins_are_named_with_their_reasons(site: Path) -> None:
    rows = {row["name"]: row for row in json.loads(zoo(site, "plugins", "--json").stdout)}
    for name, (_, reason) in BROKEN.items():
        told = " ".join([*rows[name]["failures"].values(), *rows[name]["notes"]])
        assert reason in told, (name, told)
        assert rows[name]["version"] == "0.3" and rows[name]["distribution"] == f"backbone-zoo-{name}"
    assert {name for name, row in rows.items() if row["status"] != "ok"} == set(BROKEN) - {"clash"}


@pytest.mark.parametrize("arguments", [["--help"], ["list", "strategies"], ["list", "backbones", "resnet18"]])
def test_every_command_works_beside_broken_plugins(site: Path, arguments: list[str]) -> None:
    err = zoo(site, *arguments).stderr
    assert "warning: plugin `missing` (backbone-zoo-missing 0.3) could not be loaded" in err
    assert "ZOO_DISABLE_PLUGINS=missing" in err


def test_disabling_silences_and_strict_raises(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", ",".join(BROKEN))
    assert "warning" not in zoo(site, "list", "strategies").stderr
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "signature,misspelt,raising,clash")
    monkeypatch.setenv("ZOO_STRICT_PLUGINS", "1")
    done = subprocess.run(
        [sys.executable, "-m", "zoo_cli.main", "list", "strategies"],
        env=beside(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


# Trains until the third of its five epochs has ended, and is killed there as by `kill -9`
KILLED = """
import json, os, signal, sys
from zoo.progress import ProgressBar
from zoo_cli.main import run
def epoch(self, record):
    if record["epoch"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
ProgressBar.epoch = epoch
run(json.loads(sys.argv[1]))
"""

# All in one process, which imports torch once: the author's tests, then what a user does. Broken plugins are silent in
# the first part, whose warnings are another project's business, and there in the second. A run is killed meanwhile
AUTHOR_AND_USER = """
import json, os, subprocess, sys
import pytest
from zoo_cli.main import run
broken = os.environ.pop("BROKEN")
os.environ["ZOO_DISABLE_PLUGINS"] = broken
killed = subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[2]])
codes = [pytest.main(["-p", "no:cacheprovider", "tests"])]
del os.environ["ZOO_DISABLE_PLUGINS"]
codes.append(killed.wait())
for arguments in json.loads(sys.argv[1]):
    print("command", *arguments[:2], file=sys.stderr)
    codes.append(run(arguments))
print(json.dumps([int(code) for code in codes]))
"""


def named_images(two_splits: Path, folder: Path) -> Path:
    """The photographs in one folder, by names that begin with their class."""
    folder.mkdir()
    for file in two_splits.rglob("*.jpg"):
        shutil.copy(file, folder / f"{file.parent.name}_{file.parent.parent.name}{file.name}")
    return folder


def training(images: Path, callback: str) -> list[str]:
    """A command that trains with one of each thing of the plugin that training takes."""
    return ["train", "--data", f"named:{images}", "--backbone", "acmenet", "--weights", "none", "--strategy",
            "edges:2+full,epochs=3", "--epochs", "5", "--augment", "grey:0.3", "--loss", "acme/distance:3",
            "--optimizer", "signs:0.8", "--schedule", "acme/falling", "--lr", "0.002", "--callback", callback,
            "--out"]  # fmt: skip


# All in one process, which imports torch once. Broken plugins are beside it
USER = """
import json, sys
from zoo_cli.main import run
print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def test_a_run_is_trained_with_what_a_third_party_registers(site: Path, two_splits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = training(named_images(two_splits, tmp_path / "named"), f"diary:{tmp_path / 'runs.csv'}")
    commands = json.dumps([[*train, str(run)], ["tally", str(run)]])
    done = subprocess.run(
        [sys.executable, "-c", USER, commands],
        env=beside(site),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr and "warning: plugin `missing`" in done.stderr
    blue, red, codes = done.stdout.splitlines()[-3:]
    assert json.loads(codes) == [0, 0] and blue.startswith("blue\t") and red.startswith("red\t"), done.stderr
    record = json.loads((run / "run.json").read_text())
    assert record["callbacks"][0]["distribution"] == "backbone-zoo-acme 0.3"
    assert record["callbacks"][0]["failure"] is None
    assert (tmp_path / "runs.csv").read_text() == f"run,finished,5,{record['metrics']['accuracy']}\n"
    assert record["experiment"]["data"] == f"named:{tmp_path / 'named'}" and 0 < record["metrics"]["brier"] < 2
    assert record["backbone"] == "acme/acmenet" and record["strategy"] == "edges:2+full,epochs=3"
    grey = {"name": "acme/grey", "options": {"share": 0.3}, "distribution": "backbone-zoo-acme 0.3"}
    assert record["augment"] == grey
    assert record["loss"]["name"] == "acme/distance" and record["loss"]["options"] == {"power": 3.0}
    signs = {"name": "acme/signs", "options": {"beta": 0.8}, "distribution": "backbone-zoo-acme 0.3"}
    assert record["optimizer"] == signs and record["schedule"]["name"] == "acme/falling"
    assert record["phases"][0]["trains"] == ["low", "middle", "head"]


@pytest.mark.slow
def test_a_third_party_s_tests_pass_and_its_run_is_killed_resumed_exported_and_timed(
    site: Path, two_splits: Path, tmp_path: Path
) -> None:
    """The weights are those of a run that was not killed."""
    shutil.copytree(ACME / "tests", tmp_path / "tests")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    images = named_images(two_splits, tmp_path / "named")
    train = training(images, f"diary:{tmp_path / 'runs.csv'}")
    file = stopped / "model.packed"
    bench = ["--runtime", "packed-cpu", "--batch-size", "1", "--seconds", "0.05", "--no-noise-floor"]
    commands = [
        [*train, str(whole)],
        ["train", "--resume", str(stopped)],
        ["export", str(stopped), "--to", "packed"],
        ["verify", str(file), "--data", f"named:{images}"],
        ["bench", str(file), *bench],
        ["tally", str(stopped)],
        ["plugins", "check", "acme", "--data", f"named:{images}"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", AUTHOR_AND_USER, json.dumps(commands), json.dumps([*train, str(stopped)]), KILLED],
        env=beside(site, BROKEN=",".join(BROKEN)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, -signal.SIGKILL, *[0] * len(commands)], (done.stdout, done.stderr)
    assert "12 passed" in done.stdout and "13 rows, 0 laws violated\n" in done.stderr
    record, other = (json.loads((run / "run.json").read_text()) for run in (whole, stopped))
    assert "resumed" not in record and len(other["resumed"]) == 1
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert record["metrics"] == other["metrics"]
    accuracy = record["metrics"]["accuracy"]
    assert sorted((tmp_path / "runs.csv").read_text().splitlines()) == [
        f"stopped,finished,5,{accuracy}",
        f"whole,finished,5,{accuracy}",
    ]
    assert str(file) in done.stdout.splitlines()
    told = done.stderr.partition("command verify")[2]
    assert "ok" in told and "packed-cpu" in told.partition("command bench")[2]


def test_the_third_party_implements_every_hook() -> None:
    text = (ACME / "zoo_acme" / "__init__.py").read_text()
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert {name for name in hooks if f"def {name}(register):" in text} == hooks


def test_options_of_a_third_party_s_strategy(site: Path) -> None:
    told = zoo(site, "list", "strategies", "edges", "--options").stderr
    assert "how many stages train, counted from the input" in told
