"""A new plugin package: names checked, templates filled in, the folder written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError, article, did_you_mean
from zoo.plugin import DISTRIBUTIONS, KINDS, Plugins
from zoo.storage.paths import output_path

TEMPLATES = Path(__file__).parent
PREFIX = "backbone-zoo-"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40
WIDTH = 120  # of the lines that are written


@dataclass(frozen=True, kw_only=True)
class NewPlugin:
    """A plugin package that was written.

    Attributes:
        name: Name of its entry point, and of each thing that it registers.
        folder: Where it lies.
        files: Its files, relative to the folder.
        uses: A command for each thing that it registers.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    uses: tuple[str, ...]


def nouns(plugins: Plugins) -> dict[str, str]:
    """The kinds of things that a plugin can register, such as `strategy`, with the names of their catalogues."""
    return {getattr(plugins, plural).noun: plural for plural in KINDS}


def new_plugin(name: str, kinds: Sequence[str], out: Path | str | None = None, *, plugins: Plugins) -> NewPlugin:
    """Write a package with a working example of each kind, and tests that hold it to the laws of `zoo.testing`.

    Args:
        name: Of the plugin: small letters, digits and hyphens.
        kinds: What it registers, such as `strategy` and `metric`; `all` is each kind.
        out: The folder to be made. None: `backbone-zoo-NAME` in the current one.
        plugins: Loaded plugins, whose names are taken.

    Raises:
        UsageError: the name cannot be used, a kind is unknown, or the folder exists.
        ZooError: jinja2 is not installed, or the folder cannot be written.
    """
    _check_name(name, plugins)
    kinds = _known(kinds, plugins)
    for kind in kinds:
        catalogue = getattr(plugins, nouns(plugins)[kind])
        if name in catalogue:
            raise UsageError(
                f"there is {article(kind)} `{catalogue.find(name).qualified}`, which the short name would mean",
                hint="choose another name",
            )
        if kind == "exporter":
            _check_suffix(f".{name.replace('-', '')}", plugins)
    target = output_path(out) if out is not None else Path(f"{PREFIX}{name}")
    if target.exists() or target.is_symlink():
        raise UsageError(f"`{target}` exists", hint="pass another folder with `--out`, or remove it")
    texts, uses = _texts(name, kinds)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        for path, text in texts.items():
            file = unfinished / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return NewPlugin(name=name, folder=target, files=tuple(texts), uses=tuple(uses))


def _check_name(name: str, plugins: Plugins) -> None:
    if name.startswith(PREFIX) and NAME.fullmatch(name.removeprefix(PREFIX)):
        raise UsageError(
            f"`{name}` is the name of a distribution", hint=f"pass the rest of it: `{name.removeprefix(PREFIX)}`"
        )
    if NAME.fullmatch(name) is None or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST]
        such = f", such as `{near}`" if NAME.fullmatch(near) else ""
        raise UsageError(
            f"`{name}` is no name for a plugin", hint=f"write small letters, digits and single hyphens{such}"
        )
    if f"{PREFIX}{name}" in DISTRIBUTIONS:
        raise UsageError(f"`{PREFIX}{name}` is a package of zoo itself", hint="choose another name")
    for plugin in plugins.plugins:
        if name == plugin.name or f"zoo_{name.replace('-', '_')}" == plugin.target:
            raise UsageError(f"a plugin `{name}` is installed, by `{plugin.distribution}`", hint="choose another name")


def _check_suffix(suffix: str, plugins: Plugins) -> None:
    for entry in plugins.exporters:
        if entry.value.suffix == suffix:
            raise UsageError(
                f"files that end in `{suffix}` are opened by `{entry.qualified}`", hint="choose another name"
            )


def _known(kinds: Sequence[str], plugins: Plugins) -> list[str]:
    """The kinds in the order of the hooks, each once."""
    known = nouns(plugins)
    if "all" in kinds:
        kinds = [*known, *(kind for kind in kinds if kind != "all")]
    singular = {plural: noun for noun, plural in known.items()}
    for kind in kinds:
        if kind not in known:
            meant = f"did you mean `{singular[kind]}`?" if kind in singular else None
            raise UsageError(
                f"unknown kind `{kind}`", hint=meant or did_you_mean(kind, known, f"the kinds are {' '.join(known)}")
            )
    return [noun for noun in known if noun in kinds]


def _texts(name: str, kinds: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The text of each file by its path, and the commands that use what is registered."""
    try:
        import jinja2
    except ImportError as error:
        raise ZooError("jinja2 is not installed", hint="`pip install backbone-zoo` installs it") from error
    loader = jinja2.FileSystemLoader(TEMPLATES)
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    module = f"zoo_{name.replace('-', '_')}"
    names: dict[str, Any] = {
        "name": name,
        "module": module,
        "title": "".join(word.capitalize() for word in name.split("-")),
        "suffix": name.replace("-", ""),
        "distribution": f"{PREFIX}{name}",
        "kinds": list(kinds),
    }
    parts = {kind: _blocks(templates.get_template(f"{kind}.j2"), names) for kind in kinds}
    words = sorted({"hookimpl", *(word for part in parts.values() for word in part["imports"].split())})
    names["imports"] = _sorted_imports("\n".join(f"from zoo import {word}" for word in words))
    names["rows"] = [part["row"] for part in parts.values()]
    names["tests"] = [part["test"] for part in parts.values()]
    wanted = "\n".join(part["test_imports"] for part in parts.values()).splitlines()
    own = [line for line in wanted if line.startswith(f"from {module}.")]
    names["test_imports"] = _sorted_imports("\n".join(line for line in wanted if line not in own))
    names["test_imports"] += ["", *own] if own else []
    names["uses"] = [part["use"] for part in parts.values()]
    texts = {
        "pyproject.toml": templates.get_template("pyproject.toml.j2").render(names),
        "README.md": templates.get_template("README.md.j2").render(names),
        f"{module}/__init__.py": templates.get_template("init.py.j2").render(names),
    }
    for kind, part in parts.items():
        texts[f"{module}/{kind}.py"] = f"{part['module']}\n"
        if "session" in part:
            texts[f"{module}/session.py"] = f"{part['session']}\n"
    texts[f"tests/test_{name.replace('-', '_')}.py"] = templates.get_template("tests.py.j2").render(names)
    return texts, names["uses"]


def _blocks(template: Any, names: dict[str, Any]) -> dict[str, str]:
    """The blocks of a kind's template by name, filled in."""
    context = template.new_context(names)
    return {name: "".join(block(context)).strip() for name, block in template.blocks.items()}


def _sorted_imports(text: str) -> list[str]:
    """Lines of `from MODULE import NAME`, those of one module as one line."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        _, module, _, name = line.split(" ", 3)
        found.setdefault(module, set()).add(name)
    lines = []
    for module, names in sorted(found.items(), key=lambda item: item[0].lower()):
        joined = ", ".join(sorted(names))
        whole = f"from {module} import {joined}"
        split = [f"from {module} import (", *(f"    {one}," for one in sorted(names)), ")"]
        lines += [whole] if len(whole) <= WIDTH else split
    return lines
