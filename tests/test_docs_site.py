"""The documentation builds as a site: strict, links checked, and without a network at build or view."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import ROOT
from generate import generate

# `make docs` builds it as strictly; links between pages are checked on every push by test_docs.py
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pages, target = (tmp_path_factory.mktemp(name) for name in ("pages", "site"))
    generate(pages)
    # every connection is an error, so that a build that needs a network fails on every machine
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('the documentation is built without a network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from mkdocs.__main__ import cli\n"
        "cli(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "build", "--strict", "--quiet", "--site-dir", target],
        cwd=ROOT,
        env={**os.environ, "DOCS_DIR": str(pages), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_there(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    cli = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert "--label-smoothing" in cli and "generated:" not in cli
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    assert 'id="zoo.train"' in python and "Raises" in python


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Links may lead out of the site; scripts, styles, fonts and images may not."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:)?//[^\s\">]*", text)
        loaded += re.findall(r"<link(?![^>]*rel=\"?canonical)[^>]*\shref=\"?(https?:)?//[^\s\">]*", text)
        assert not loaded, page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_comments_for_tests_are_left_out(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"!-- (not run|given|generated|counts|compared|run in)", text), page
