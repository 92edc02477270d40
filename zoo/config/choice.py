"""Choices: rows that a setting names, with their options: `[PROVIDER/]NAME[:VALUE][,KEY=VALUE]...`.

light
focal:2
acme/mixed,strength=0.5
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from zoo.catalogue import Catalogue, Entry
from zoo.config.grammar import read_value, write_value
from zoo.config.option_hints import of_row
from zoo.errors import UsageError, ZooError, did_you_mean
from zoo.option import Option
from zoo.plugin import DISTRIBUTIONS, Plugins
from zoo.target import load_target


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A row that a setting names, and the values of its options.

    Attributes:
        entry: The row.
        noun: What messages call it, such as `loss`.
        values: The value of every option.
        distribution: Distribution and version of its plugin. None: it is built in.
    """

    entry: Entry[Any]
    noun: str
    values: Mapping[str, Any]
    distribution: str | None = None

    def __str__(self) -> str:
        """The qualified name with the options that differ from their defaults."""
        text, pairs = self.entry.qualified, []
        for index, option in enumerate(self.entry.value.options):
            value = self.values[option.name]
            if value != option.default and index == 0:
                text += f":{write_value(value)}"
            elif value != option.default:
                pairs.append(f"{option.name}={write_value(value)}")
        return ",".join([text, *pairs])

    def function(self, arguments: int, of: str = "target") -> Callable[..., Any]:
        """The row's function with its options bound; it takes so many arguments. `of` is the row's field that names it.

        Raises:
            ZooError: it cannot be imported, is no function, or takes other arguments.
        """
        target, hint = getattr(self.entry.value, of), "the plugin must be mended; `zoo plugins` names its distribution"
        function = load_target(target)
        if not callable(function):
            raise ZooError(f"`{target}` of {self.noun} `{self}` is no function", hint=hint)
        found = partial(function, **self.values)
        try:
            inspect.signature(found).bind(*[None] * arguments)
        except TypeError as error:
            raise ZooError(
                f"`{target}` of {self.noun} `{self}` does not take {arguments} arguments and its options: {error}",
                hint=hint,
            ) from error
        except ValueError:  # some functions in C have no signature: a wrong call is told when it is made
            pass
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.entry.qualified, "options": dict(self.values), "distribution": self.distribution}


def choose(text: str, catalogue: Catalogue[Any], plugins: Plugins) -> Choice:
    """The row that a text names.

    Raises:
        UsageError: there is none, or its options are wrong; all that is wrong is reported together.
    """
    head, *pairs = text.split(",")
    name, colon, first = (word.strip() for word in head.partition(":"))
    provider = name.rpartition("/")[0]
    if provider and all(entry.provider != provider for entry in catalogue):
        raise UsageError(
            f"unknown {catalogue.noun} `{name}`: no plugin `{provider}` with {catalogue.plural} is installed",
            hint="install it; `zoo plugins` lists what is installed",
        )
    entry = catalogue.find(name)
    options = {option.name: option for option in entry.value.options}
    problems: list[str] = []
    hints: list[str] = []
    values: dict[str, Any] = {}
    if colon and not options:
        problems.append(f"`{entry.name}` takes no value, but `:{first}` is given")
    elif colon and "=" in first:
        problems.append(f"`{first}` stands after the colon, where the value of `{next(iter(options))}` does")
        hints.append(f"write `{name},{first}`")
    elif colon:
        pairs.insert(0, f"{next(iter(options))}={first}")
    for pair in pairs:
        key, equals, raw = (word.strip() for word in pair.partition("="))
        option = options.get(key)
        if not equals or not raw:
            problems.append(f"`{pair}` is not written KEY=VALUE")
        elif option is None:
            problems.append(f"`{entry.name}` has no option `{key}`")
            hints.append(did_you_mean(key, options, f"it has {' '.join(options) or 'none'}"))
        elif key in values:
            problems.append(f"`{key}` is given twice")
        else:
            before = len(problems)
            read_value(key, raw, type(option.default), values, problems)
            value = values.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                wrong = _outside(option, value)
                problems += [f"`{key}={raw}` is {wrong}"] if wrong else []
            if len(problems) > before:
                first = key == next(iter(options))
                hints.append(str(of_row(entry.name, key, option.default, option.summary, first=first)))
    if problems:
        raise UsageError(
            f"{catalogue.noun} `{text}`: {'; '.join(problems)}",
            hint=hints[0] if hints else f"see `zoo list {catalogue.plural} --options`",
        )
    plugin = next(one for one in plugins.plugins if one.name == entry.provider and one.module is not None)
    return Choice(
        entry=entry,
        noun=catalogue.noun,
        values={name: values.get(name, option.default) for name, option in options.items()},
        distribution=None if plugin.distribution in DISTRIBUTIONS else f"{plugin.distribution} {plugin.version}",
    )


def _outside(option: Option, value: float) -> str | None:
    """What is wrong with a number. None: it is finite, and within the bounds."""
    low, high = (bound if bound is not None else value for bound in (option.low, option.high))
    if math.isfinite(value) and low <= value <= high:
        return None
    if option.low is not None and option.high is not None:
        return f"outside {option.low:.12g} to {option.high:.12g}"
    if not math.isfinite(value):
        return "not a finite number"
    return f"below {low:.12g}" if value < low else f"above {high:.12g}"


def check_installed(choice: Choice) -> None:
    """Check that what a row requires can be imported.

    Raises:
        UsageError: a module is missing.
    """
    row = choice.entry.value
    missing = [module for module in row.requires if not _is_installed(module)]
    if missing:
        raise UsageError(
            f"{choice.noun} `{choice}` needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed",
            hint=f"`{row.install}`" if row.install else f"`pip install {' '.join(missing)}`",
        )


def _is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder of its name, such as W&B's `wandb`, is none."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
