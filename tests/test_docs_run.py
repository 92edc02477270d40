"""The commands of README and documentation run in order, and print what the pages show.

`make docs-output` runs the same tests and puts what was printed into the pages, where it differs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docs_pages
import pytest
from docs_pages import COMMANDS, PROGRAM, ROOT, Block, Folder, blocks_of

sys.path.insert(0, str(ROOT / "examples"))
from make_fruit import make_fruit

from zoo_cli.main import run

HOME = "/home/you"  # what pages show in the place of the temporary folder
REWRITE = bool(os.environ.get("DOCS_OUTPUT"))

LINEAR = "--data HERE/photos --backbone efficientnet_lite0 --strategy linear --image-size 64"
MADE_BY = {
    "runs/first": f"train {LINEAR} --out HERE/runs/first".split(),
    "runs/first/model.onnx": "export HERE/runs/first".split(),
    "runs/study": f"study {LINEAR} --seed 0 --out HERE/runs/study".split(),
}


def runs_something(page: Path) -> bool:
    return any(block.language in (COMMANDS, PROGRAM) and not block.not_run and not block.title for block in blocks_of(page))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs that pages find in their folder, made once. Runs are added when a page asks for them."""
    root = tmp_path_factory.mktemp("docs")
    make_fruit(root / "photos", {"apple": 16, "lemon": 16, "orange": 16})
    make_fruit(root / "holiday", {"apple": 2, "orange": 1}, seed=1)
    for index, file in enumerate(sorted((root / "holiday").glob("*/*.jpg"))):
        file.rename(root / "holiday" / f"{index}.jpg")
    shutil.copy(root / "photos/apple/000.jpg", root / "photo.jpg")
    (root / "unsorted").mkdir()
    lines = ["file,label"]
    for number in range(14):
        label = ("apple", "lemon")[number % 2]
        shutil.copy(root / "photos" / label / f"{number // 2:03d}.jpg", root / "unsorted" / f"{number + 1:04d}.jpg")
        lines.append(f"unsorted/{number + 1:04d}.jpg,{label}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def path() -> Iterator[Path]:
    """A folder whose name is as short as a user's, so that outputs wrap as they do for a user."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder:
        yield Path(folder)


def prepare(name: str, prepared: Path, folder: Path) -> None:
    """Put one of the things that a page asks for into its folder."""
    source, target = prepared / name, folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == "examples":
        source = ROOT / name
    elif name in MADE_BY and not source.exists():
        if name == "runs/first/model.onnx":
            prepare("runs/first", prepared, folder)
        assert run([word.replace("HERE", str(prepared)) for word in MADE_BY[name]]) == 0
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.onnx", "__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize(
    "page", [page for page in docs_pages.PAGES if runs_something(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_commands_of_a_page(page: Path, prepared: Path, path: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in docs_pages.given(page):
        prepare(name, prepared, path)
    folder = Folder(path, tmp_path, shell="<!-- run in a shell -->" in text)
    printed: list[tuple[Block, str]] = []
    for block in blocks_of(page):
        if block.not_run or not (block.title or block.language in (COMMANDS, PROGRAM)):
            continue
        output = folder.run(block).replace(str(path.resolve()), HOME)
        if block.output is not None:
            printed.append((block, output))
    differences = {
        block: found
        for block, output in printed
        if (found := docs_pages.difference(block.output.text, output, counts=block.output.counts, lines=block.output.compared))
    }
    if REWRITE:
        for block, output in reversed(printed):
            if block in differences:
                docs_pages.rewrite(block, output)
        return
    told = "\n\n".join(f"{block}\n{found}" for block, found in differences.items())
    assert not differences, f"{told}\n\n`make docs-output` puts what is printed into the pages"
