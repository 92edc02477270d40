"""The commands of README and documentation run in order, and print what the pages show.

`make docs-output` runs the same tests and puts what was printed into the pages, where it differs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docs_pages
import pytest
from docs_pages import COMMANDS, PAGES, PROGRAM, ROOT, Block, Folder, blocks_of
from make_fruit import make_fruit
from shared import made_once

from zoo_cli.main import run

HOME = "/home/you"  # what pages show in the place of the temporary folder
REWRITE = bool(os.environ.get("DOCS_OUTPUT"))
LINEAR = ["--backbone", "efficientnet_lite0", "--strategy", "linear", "--image-size", "64"]


def is_run(block: Block) -> bool:
    return block.language in (COMMANDS, PROGRAM) and not block.not_run and not block.title


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Photographs that pages find in their folder: with and without labels, in class folders and in a table."""

    def make(root: Path) -> None:
        make_fruit(root / "photos", {"apple": 10, "lemon": 10, "orange": 10})
        make_fruit(root / "holiday", {"apple": 2, "orange": 1}, seed=1)
        for index, file in enumerate(sorted((root / "holiday").glob("*/*.jpg"))):
            file.rename(root / "holiday" / f"{index}.jpg")
        shutil.copy(root / "photos/apple/000.jpg", root / "photo.jpg")
        (root / "unsorted").mkdir()
        lines = ["file,label"]
        for number in range(14):
            label, name = ("apple", "lemon")[number % 2], f"unsorted/{number + 1:04d}.jpg"
            shutil.copy(root / "photos" / label / f"{number // 2:03d}.jpg", root / name)
            lines.append(f"{name},{label}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    yield from made_once(tmp_path_factory.getbasetemp(), "docs-photographs", make)


@pytest.fixture(scope="session")
def first_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run with its `model.onnx`."""

    def make(root: Path) -> None:
        assert run(["train", "--data", str(photographs / "photos"), *LINEAR, "--out", str(root / "first")]) == 0
        assert run(["export", str(root / "first")]) == 0

    for root in made_once(tmp_path_factory.getbasetemp(), "docs-run", make):
        yield root / "first"


@pytest.fixture(scope="session")
def first_study(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study of one configuration."""

    def make(root: Path) -> None:
        asked = ["--data", str(photographs / "photos"), *LINEAR, "--seed", "0"]
        assert run(["study", *asked, "--out", str(root / "study")]) == 0

    for root in made_once(tmp_path_factory.getbasetemp(), "docs-study", make):
        yield root / "study"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is as short as a user's, so that outputs wrap as they do for a user."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as path:
        yield Path(path).resolve()


def prepare(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Put one of the things that a page asks for into its folder."""
    leave_out = shutil.ignore_patterns("*.onnx", "__pycache__")
    if name == "examples":
        source = ROOT / name
    elif name.startswith("runs/first"):
        source = request.getfixturevalue("first_run") / name.removeprefix("runs/first").lstrip("/")
    elif name == "runs/study":
        source = request.getfixturevalue("first_study")
    else:
        source = request.getfixturevalue("photographs") / name
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=leave_out)
    else:
        shutil.copy(source, target)


RUN_PAGES = [page for page in PAGES if any(map(is_run, blocks_of(page)))]
# Pages whose commands take minutes together, and whose subjects have tests of their own: `make test-slow` runs them
SLOW = {
    f"docs/{name}.md"
    for name in (
        "explanation/source-study",
        "how-to/choose-a-backbone",
        "how-to/combine-runs",
        "how-to/compare-configurations",
        "how-to/deploy-with-onnxruntime",
        "how-to/deploy-with-openvino",
        "how-to/deploy-with-triton",
        "how-to/features-of-millions",
        "how-to/find-faults-in-your-data",
        "how-to/groups-and-folds",
        "how-to/imbalanced-classes",
        "how-to/label-what-helps",
        "how-to/make-the-file-smaller",
        "how-to/measure-latency",
        "how-to/plugins/backbone",
        "how-to/plugins/command",
        "how-to/plugins/dataset",
        "how-to/plugins/exporter",
        "how-to/plugins/index",
        "how-to/plugins/metric",
        "how-to/plugins/runtime",
        "how-to/plugins/strategy",
        "how-to/plugins/whole-package",
        "how-to/predict",
        "how-to/resume-a-stopped-run",
        "how-to/search-on-many-machines",
        "how-to/serve",
        "how-to/serve-on-many-machines",
        "how-to/whole-image",
        "reference/exported-file",
        "reference/study-folder",
        "tutorial/index",
    )
}


def param(page: Path) -> object:
    name = str(page.relative_to(ROOT))
    return pytest.param(page, id=name, marks=pytest.mark.slow if name in SLOW else ())


def test_pages_with_commands_are_tested() -> None:
    """Without any, pytest would only skip the test below."""
    commands = [page for page in PAGES if any(block.language == COMMANDS for block in blocks_of(page))]
    assert ROOT / "README.md" in RUN_PAGES and len(RUN_PAGES) > len(commands) / 2 > 5
    assert {str(page.relative_to(ROOT)) for page in RUN_PAGES} > SLOW
    assert not REWRITE or "CI" not in os.environ, "`DOCS_OUTPUT` makes every page pass"


@pytest.mark.parametrize("page", [param(page) for page in RUN_PAGES])
def test_the_commands_of_a_page(page: Path, folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name in docs_pages.given(page):
        prepare(name, folder, request)
    runner = Folder(folder, tmp_path, shell=docs_pages.in_a_shell(page))
    printed: list[tuple[Block, Block, str]] = []
    try:
        for block in blocks_of(page):
            if block.title:
                runner.write(block)
            elif is_run(block):
                output = runner.run(block).replace(str(folder), HOME)
                if block.output is not None:
                    printed.append((block, block.output, output))
    finally:
        runner.stop()
    differences = {
        block: found
        for block, shown, output in printed
        if (found := docs_pages.difference(shown.text, output, counts=shown.counts, lines=shown.compared))
    }
    if REWRITE:
        for block, shown, output in reversed(printed):
            if block in differences:
                docs_pages.rewrite(shown, output)
        return
    told = "\n\n".join(f"{block}\n{found}" for block, found in differences.items())
    assert not differences, f"{told}\n\n`make docs-output` puts what is printed into the pages"
