"""The built-in plugins keep the laws, as `zoo plugins check` asks for them."""

from __future__ import annotations

import pytest

from zoo.plugin import Plugins
from zoo.testing import RowCheck, check_plugin

LARGE = {"torchvision", "timm"}  # 1,451 networks, whose families are checked by test_contracts.py
ROWS = {"runtimes": ("plugin", "runtime/o*")}  # torch-compiled takes a minute: test_runtime.py
NAMES = [plugin.name for plugin in Plugins().plugins if plugin.distribution.startswith("backbone-zoo")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE and name != "acme"])
def test_a_built_in_plugin(name: str) -> None:
    results = list(
        check_plugin(name, strategies=["partial:1"] if name == "strategies" else [], only=ROWS.get(name, ()))
    )
    assert len(results) > 1 and [one for one in results if one.status == "violated"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_a_large_plugin_starts_without_a_framework(name: str) -> None:
    (result,) = check_plugin(name, only=["plugin"])
    assert result.status == "passed", result


def test_results_come_one_by_one() -> None:
    results = check_plugin("metrics", only=["metric"])
    first = next(results)
    assert first == RowCheck(kind="metric", name="accuracy", status="passed")
    assert len(list(results)) == len(Plugins().metrics) - 1
