"""What the tree imports comes by what it declares, so that a fresh machine has it and not only its author's."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import ROOT

FOLDERS = ("zoo", "plugins", "exporters", "cli", "packaging", "tests", "docs")
# installed by `make install`
EXTRAS = ("offline", "dev")


@cache
def declared() -> frozenset[str]:
    """Every distribution that `make install` brings, with what those need themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    waiting = [Requirement(line) for line in lines]
    done: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            if (key := (canonicalize_name(one.name), extra)) in done:
                continue
            done.add(key)
            try:
                needed = [Requirement(line) for line in requires(one.name) or []]
            except PackageNotFoundError:
                continue  # of another platform, or a second name of one that is there
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return frozenset(name for name, _ in done)


@cache
def imports() -> tuple[tuple[str, str], ...]:
    """Modules that the tree imports, each with its file."""
    found: list[tuple[str, str]] = []
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    names = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
                found += [(name.split(".")[0], str(file.relative_to(ROOT))) for name in names]
    return tuple(found)


@cache
def providers() -> Mapping[str, list[str]]:
    """Distributions by the module that they bring; reading the lists of all their files takes seconds."""
    return packages_distributions()


def undeclared(brought: frozenset[str]) -> dict[str, str]:
    """Imported modules of other people's distributions that none of `brought` provides, each with a file that does."""
    return {
        name: file
        for name, file in imports()
        if name not in sys.stdlib_module_names
        and name in providers()
        and not brought & {canonicalize_name(each) for each in providers()[name]}
    }


def test_every_imported_distribution_is_declared() -> None:
    assert not undeclared(declared() | {"backbone-zoo", "backbone-zoo-serve"})


@pytest.mark.parametrize("module", ["httpx", "torch", "hypothesis"])
def test_a_distribution_that_nothing_brings_is_found(module: str) -> None:
    assert module in undeclared(declared() - {module})
