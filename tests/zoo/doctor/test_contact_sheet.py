"""The doctor's page in a real browser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from chromium import CHROMIUM, in_chromium

from zoo.doctor.reporting import doctor


@in_chromium
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_loads_nothing_and_fits_the_screen(two_splits: Path, tmp_path: Path, width: int) -> None:
    page = doctor(str(two_splits), out=tmp_path / "out", backbone="none").html
    tell = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"
    html = page.read_text().replace("style-src", "script-src 'unsafe-inline'; style-src", 1)
    page.write_text(html.replace("</body>", tell + "</body>"))
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--disable-background-networking",
            "--disable-component-update", "--dump-dom", f"--window-size={width},900", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found is not None and int(found[1]) <= int(found[2])
