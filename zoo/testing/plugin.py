"""The laws of a whole plugin: how it loads, and those of everything that it registers, one after the other."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zoo.catalogue import Entry
from zoo.errors import PluginWarning, UsageError, ZooError, did_you_mean, quoted
from zoo.plugin import KINDS, Plugin, Plugins
from zoo.row import TARGET
from zoo.system.fresh_import import frameworks_after
from zoo.target import load_target
from zoo.testing.law import NotChecked, Violation, require

Status = Literal["passed", "violated", "not checked"]

SIZE = 32  # pixels of the images that strategies are checked on
BACKBONE = "timm/test_efficientnet"  # 0.4 million parameters, in stages with batch norms

# Fields that name no function, and `load` of a runtime, which is imported in a process of its own
NOT_LOADED = ("name", "summary", "install", "load")


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    """What came of the laws of one row, or of the plugin itself.

    Attributes:
        kind: `plugin`, or what the row is, such as `metric`.
        name: Its name.
        status: `passed`, `violated` or `not checked`.
        reason: The law that is violated, or why it was not checked; notes of a plugin that passed.
        hint: How to mend it. None: the reason says it.
    """

    kind: str
    name: str
    status: Status
    reason: str = ""
    hint: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def check_plugin(
    plugin: str,
    *,
    plugins: Plugins | None = None,
    data: Sequence[str] = (),
    strategies: Sequence[str] = (),
    backbone: str = BACKBONE,
    only: Sequence[str] = (),
) -> Iterator[RowCheck]:
    """Check a plugin and everything that it registers; yields a result for each row, as it is known.

    The plugin loads, each of its hooks is one and ends without an error, and start-up imports no framework. Then come
    the laws of each row, with the defaults of its options.

    Args:
        plugin: Name of its entry point, or of the distribution that installs it.
        plugins: Loaded plugins. None: load those installed.
        data: Texts of `--data` for its datasets, which are otherwise checked with no argument.
        strategies: Texts of `--strategy` for its strategies, which are otherwise checked with their defaults.
        backbone: Name of the backbone that its strategies are checked on.
        only: Kinds, or shell patterns of what is checked, such as `metric/a*`. Empty: everything.

    Raises:
        UsageError: there is no such plugin, it is disabled, or it registers nothing of a name that is given.
    """
    plugins = plugins or Plugins()
    mine = _find(plugin, plugins)
    names = {one.name for one in mine if "load" not in one.failures}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # failures are results here
        plugins.load_everything()
    rows = [
        (getattr(plugins, plural).noun, entry)
        for plural in KINDS
        for entry in getattr(plugins, plural)
        if entry.provider in names
    ]
    wanted = [(noun, entry) for noun, entry in rows if _is_wanted(f"{noun}/{entry.name}", only)]
    texts = {"dataset": _by_name(data, names), "strategy": _by_name(strategies, names)}
    every = [*(f"plugin/{one.name}" for one in mine), *(f"{noun}/{entry.name}" for noun, entry in rows)]
    _check_asked(plugin, every, only, texts)
    plugins.backbones.find(backbone)
    for one in mine:
        if _is_wanted(f"plugin/{one.name}", only):
            yield from _check_loading(one)
    for noun, entry in wanted:
        given = texts.get(noun, {}).get(entry.name, [])
        for text in given or [entry.qualified]:
            check = _checks(noun, text, backbone, plugins)
            found = _result(noun, text if given else entry.name, partial(_check_row, entry, check))
            # what the user asks for is never passed over
            yield replace(found, status="violated") if given and found.status == "not checked" else found


def _by_name(texts: Sequence[str], providers: Collection[str]) -> dict[str, list[str]]:
    """The texts by the short name of the row that they name."""
    found: dict[str, list[str]] = {}
    for text in texts:
        provider, _, name = re.split("[:,+]", text)[0].rpartition("/")
        found.setdefault(name if provider in ("", *providers) else f"{provider}/{name}", []).append(text)
    return found


def _find(name: str, plugins: Plugins) -> list[Plugin]:
    """The plugins of a name, of which at most one is loaded, or those of a distribution."""
    found = [plugin for plugin in plugins.plugins if name in (plugin.name, plugin.distribution)]
    if not found:
        known = [word for plugin in plugins.plugins for word in (plugin.name, plugin.distribution)]
        raise UsageError(f"no plugin `{name}` is installed", hint=did_you_mean(name, known, "see `zoo plugins`"))
    enabled = [plugin for plugin in found if not plugin.disabled]
    if not enabled:
        raise UsageError(f"plugin `{name}` is disabled", hint="take it out of ZOO_DISABLE_PLUGINS")
    return enabled


def _is_wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(name, one if "/" in one else f"{one}/*") for one in only)


def _check_asked(plugin: str, every: list[str], only: Sequence[str], texts: dict[str, dict[str, list[str]]]) -> None:
    """Check that what the user names is there.

    Raises:
        UsageError: it is not.
    """
    for pattern in only:
        if not any(_is_wanted(name, [pattern]) for name in every):
            hint = did_you_mean(pattern, every, f"it has {' '.join(every[:12])}{' ...' if len(every) > 12 else ''}")
            raise UsageError(f"plugin `{plugin}` has nothing like `{pattern}`", hint=hint)
    for noun, asked in texts.items():
        known = [name.removeprefix(f"{noun}/") for name in every if name.startswith(f"{noun}/")]
        for name in asked:
            if name not in known:
                hint = did_you_mean(name, known, f"those that it has: {' '.join(known) or 'none'}")
                raise UsageError(f"plugin `{plugin}` has no {noun} `{name}`", hint=hint)


def _check_loading(plugin: Plugin) -> Iterator[RowCheck]:
    """How a plugin loads: a result for each failure, or one that it loads without."""
    for where, reason in plugin.failures.items():
        told = f"it cannot be loaded: {reason}" if where == "load" else f"`{where}`: {reason}"
        yield RowCheck(
            kind="plugin",
            name=plugin.name,
            status="violated",
            reason=told,
            hint=f"`ZOO_STRICT_PLUGINS=1 zoo list {where.removeprefix('register_')}` shows the traceback"
            if where.removeprefix("register_") in KINDS
            else "`ZOO_STRICT_PLUGINS=1 zoo plugins` shows the traceback",
        )
    if not plugin.failures:
        found = _result("plugin", plugin.name, lambda: _check_start(plugin))
        yield replace(found, reason=found.reason or "; ".join(plugin.notes))


def _check_start(plugin: Plugin) -> None:
    require(
        any(plugin.provides.values()),
        "it registers nothing",
        hint="implement a hook, such as `register_metrics`, with `@zoo.hookimpl`",
    )
    for _ in range(2):  # a catalogue that takes long may be remembered by `zoo.catalogue.memoise`
        frameworks = frameworks_after("zoo.testing.plugin_start:start", plugin.name, plugin.target, call=True)
        if not frameworks:
            return
    require(
        False,
        f"loading it imports {' and '.join(frameworks)}, for which every `zoo --help` would wait",
        hint='name functions as `"module:function"`, in modules that `__init__` does not import',
    )


def _check_row(entry: Entry[Any], check: Callable[[], object]) -> None:
    """Check that the functions of a row can be imported, and its laws."""
    for target in _targets(entry.value):
        try:
            load_target(target)
        except ZooError as error:
            missing = getattr(error.__cause__, "name", None)
            own = target.partition(":")[0]
            installed = isinstance(missing, str) and not f"{own}.".startswith(f"{missing}.")
            if isinstance(error.__cause__, ModuleNotFoundError) and installed:
                raise NotChecked(f"it needs `{missing}`, which is not installed") from error
            raise Violation(
                error.message, hint="a target is written `module:function`, as Python imports it"
            ) from error
    check()


def _targets(value: Any) -> Iterator[str]:
    """The texts of a row that name functions."""
    if isinstance(value, tuple):
        for one in value:
            yield from _targets(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            found = getattr(value, field.name)
            if isinstance(found, str) and field.name not in NOT_LOADED and TARGET.fullmatch(found):
                yield found
            elif isinstance(found, tuple) or is_dataclass(found):
                yield from _targets(found)


def _checks(noun: str, text: str, backbone: str, plugins: Plugins) -> Callable[[], object]:
    """The laws of one row, imported when they are called."""
    try:
        check = load_target(f"zoo.testing:check_{noun}")
    except ZooError as error:  # torch, where only `backbone-zoo-serve` is installed
        missing = error.message
        return lambda: _not_checked(missing)
    if noun == "strategy":
        return lambda: check(text, backbone, image_size=SIZE, plugins=plugins)
    if noun == "callback":
        return lambda: _in_own_folder(lambda: check(text, plugins=plugins))
    return lambda: check(text, plugins=plugins)


def _not_checked(reason: str) -> None:
    raise NotChecked(reason, hint="`pip install backbone-zoo` brings what training needs")


def _in_own_folder(check: Callable[[], object]) -> None:
    """Call a check in a working directory of its own: a callback may write to a relative path."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        check()


def _result(kind: str, name: str, check: Callable[[], object]) -> RowCheck:
    """The result of a check, whatever it raises."""
    try:
        check()
    except KeyboardInterrupt:
        raise
    except NotChecked as error:
        return RowCheck(kind=kind, name=name, status="not checked", reason=error.message, hint=error.hint)
    except Violation as error:
        reason = error.message.splitlines()[0]
        return RowCheck(kind=kind, name=name, status="violated", reason=reason, hint=error.hint or _again(kind, name))
    except UsageError as error:  # an option, a package or another backbone is needed
        return RowCheck(kind=kind, name=name, status="not checked", reason=error.message, hint=error.hint)
    except ZooError as error:
        hint = error.hint or _again(kind, name)
        return RowCheck(kind=kind, name=name, status="violated", reason=error.message, hint=hint)
    except BaseException as error:  # a plugin may raise anything
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return RowCheck(
            kind=kind,
            name=name,
            status="violated",
            reason=f"it raises {_quoted_error(error)}{notes} at {_place(error)}",
            hint=_again(kind, name),
        )
    return RowCheck(kind=kind, name=name, status="passed")


def _quoted_error(error: BaseException) -> str:
    """Type and text of an error, on one line."""
    text = quoted(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _again(kind: str, name: str) -> str:
    """How to see the traceback of a check."""
    more = f', "{BACKBONE}", image_size={SIZE}' if kind == "strategy" else ""
    return f'`zoo.testing.check_{kind}("{name}"{more})` in a test or in Python shows the traceback'
