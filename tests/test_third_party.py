"""Plugin packages as users get them: installed by pip, good and broken, side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


# All in one process, which imports torch once: the author's tests, then what a user does. Broken plugins are silent in
# the first part, whose warnings are another project's business, and there in the second
AUTHOR_AND_USER = """
import json, os, sys
import pytest
from zoo_cli.main import run
broken = os.environ.pop("BROKEN")
os.environ["ZOO_DISABLE_PLUGINS"] = broken
codes = [pytest.main(["-p", "no:cacheprovider", "tests"])]
del os.environ["ZOO_DISABLE_PLUGINS"]
for arguments in json.loads(sys.argv[1]):
    print("command", arguments[0], file=sys.stderr)
    codes.append(run(arguments))
print(json.dumps([int(code) for code in codes]))
"""


def test_a_third_party_s_tests_pass_and_its_network_is_trained_exported_and_verified(
    site: Path, two_splits: Path, tmp_path: Path
) -> None:
    shutil.copytree(ACME / "tests", tmp_path / "tests")
    run = tmp_path / "run"
    train = ["train", "--data", str(two_splits), "--backbone", "acmenet", "--weights", "none", "--strategy",
             "edges:2+full,epochs=3", "--epochs", "5", "--augment", "grey:0.3", "--loss", "acme/distance:3",
             "--optimizer", "signs:0.8", "--schedule", "acme/falling", "--lr", "0.002",
             "--callback", f"diary:{tmp_path / 'runs.csv'}", "--out", str(run)]  # fmt: skip
    commands = [train, ["export", str(run)], ["verify", str(run / "model.onnx"), "--data", str(two_splits)]]
    done = subprocess.run(
        [sys.executable, "-c", AUTHOR_AND_USER, json.dumps(commands)],
        env=beside(site, BROKEN=",".join(BROKEN)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, 0, 0], (done.stdout, done.stderr)
    assert "7 passed" in done.stdout and "warning: plugin `missing`" in done.stderr
    kept = json.loads((run / "run.json").read_text())
    assert kept["callbacks"][0]["distribution"] == "backbone-zoo-acme 0.3" and kept["callbacks"][0]["failure"] is None
    assert (tmp_path / "runs.csv").read_text() == f"run,finished,5,{kept['metrics']['accuracy']}\n"
    assert str(run / "model.onnx") in done.stdout.splitlines() and "ok" in done.stderr.rpartition("command verify")[2]
    record = json.loads((run / "run.json").read_text())
    assert record["backbone"] == "acme/acmenet" and record["strategy"] == "edges:2+full,epochs=3"
    grey = {"name": "acme/grey", "options": {"share": 0.3}, "distribution": "backbone-zoo-acme 0.3"}
    assert record["augment"] == grey
    assert record["loss"]["name"] == "acme/distance" and record["loss"]["options"] == {"power": 3.0}
    signs = {"name": "acme/signs", "options": {"beta": 0.8}, "distribution": "backbone-zoo-acme 0.3"}
    assert record["optimizer"] == signs and record["schedule"]["name"] == "acme/falling"
    assert record["phases"][0]["trains"] == ["low", "middle", "head"]


def test_options_of_a_third_party_s_strategy(site: Path) -> None:
    told = zoo(site, "list", "strategies", "edges", "--options").stderr
    assert "how many stages train, counted from the input" in told
