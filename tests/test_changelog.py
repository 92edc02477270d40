"""Changelog fragments: each has a known type and comes out in the changelog that a release builds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from wheels import ROOT

FOLDER = ROOT / "changelog.d"
TYPES = {
    one["directory"]
    for one in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]["type"]
}


def flaw(name: str, text: str) -> str | None:
    """What is wrong with a fragment, if anything."""
    found = re.fullmatch(r"(?:\d+|\+[a-z0-9-]+)\.([a-z]+)(?:\.\d+)?\.md", name)
    if found is None:
        return f"`{name}` is neither `ISSUE.TYPE.md` nor `+NAME.TYPE.md`"
    if found[1] not in TYPES:
        return f"`{name}` is of no known type; types are {' '.join(sorted(TYPES))}"
    lines = text.strip().splitlines()
    if not lines or lines[0].startswith(("-", "*", "#")) or lines[-1].endswith("."):
        return f"`{name}` is not one sentence without bullet and full stop"
    return None


def test_fragments_are_sound() -> None:
    for file in FOLDER.iterdir():
        if file.name != "README.md":
            assert flaw(file.name, file.read_text(encoding="utf-8")) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("14.feature.md", "A type of no section"),
        ("14.md", "No type"),
        ("added.md", "No issue"),
        ("+Serve.added.md", "A capital"),
        ("14.added.txt", "No Markdown"),
        ("14.added.md", "- A bullet"),
        ("14.added.md", "A full stop."),
        ("14.added.md", "\n"),
    ],
)
def test_others_are_not(name: str, text: str) -> None:
    assert flaw(name, text) is not None


def test_the_readme_names_the_types() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == TYPES


def test_a_release_builds_them_in() -> None:
    fragments = [file for file in FOLDER.iterdir() if file.name != "README.md"]
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.8.7", "--date", "2026-01-02"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("## 9.8.7, 2026-01-02" in done.stdout) or not fragments
    for file in fragments:
        assert file.read_text(encoding="utf-8").strip() in done.stdout
    # and the place where they are built in is there
    marker = "<!-- new versions are built in below this line -->\n"
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").count(marker) == 1
