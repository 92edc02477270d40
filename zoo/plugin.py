"""The plugin loader. A plugin that fails is reported by name, and everything else works.

pluggy finds the implementations of hooks and checks their signatures. The rest is done here: each entry point is
loaded separately, and each implementation is called separately, with a `register` that knows the plugin. A failure is
recorded with the hook that failed, and the command goes on.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pluggy

from zoo import hookspecs
from zoo.catalogue import Catalogue, Entry
from zoo.errors import PluginWarning, ZooError, article, did_you_mean
from zoo.system.entry_points import installed_points
from zoo.system.stdout import stdout_to_stderr
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.augmentation import Augmentation
    from zoo.backbone import Backbone
    from zoo.callback import Callback
    from zoo.command import Command
    from zoo.dataset import Dataset
    from zoo.exporter import Exporter
    from zoo.loss import Loss
    from zoo.metric import Metric
    from zoo.optimizer import Optimizer
    from zoo.runtime import Runtime
    from zoo.schedule import Schedule

GROUP = "zoo.plugins"
# Distributions of the built-in plugins. `backbone-zoo` requires the other one, which runs exported files without torch
DISTRIBUTIONS = ("backbone-zoo", "backbone-zoo-serve")

# Where two plugins have a network of the same name, the short name means that of the first plugin in this order. `lite`
# is before timm because its weights are installed by pip. Third parties follow by name, so they displace no built-in
BUILT_IN_ORDER = ("torchvision", "lite", "timm")


@dataclass
class Plugin:
    """A plugin that is installed: whether it loaded, what it registers, and what failed.

    Attributes:
        name: Name of its entry point.
        distribution: Distribution that installs it, with its `version`.
        target: Module that the entry point names.
        module: The module. None: it was not loaded.
        disabled: Whether `ZOO_DISABLE_PLUGINS` names it.
        failures: One-line reason by the hook that failed; `load` where the module could not be loaded.
        notes: Lines for the user, such as a name that another plugin has too.
        provides: Names that it registers, by kind (`backbones`, `strategies`, ...).
    """

    name: str
    distribution: str
    version: str
    target: str
    module: Any = None
    disabled: bool = False
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provides: dict[str, list[str]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """`ok`, `partly failed`, `failed` or `disabled`."""
        if self.disabled:
            return "disabled"
        if "load" in self.failures:
            return "failed"
        return "partly failed" if self.failures else "ok"


class Point(Protocol):
    """What is needed of an entry point, as of `importlib.metadata.EntryPoint`."""

    @property
    def value(self) -> str: ...
    def load(self) -> Any: ...


class PluginCandidate(NamedTuple):
    """An installed entry point that is not loaded yet. Tests make their own."""

    name: str
    distribution: str
    version: str
    entry_point: Point


def installed_candidates() -> list[PluginCandidate]:
    """Every installed entry point of the group `zoo.plugins`, with its distribution."""
    return [PluginCandidate(point.name, point.distribution, point.version, point) for point in installed_points(GROUP)]


class Plugins:
    """The installed plugins, and a catalogue of each kind that they register, such as `backbones`.

    Attributes:
        plugins: Every installed plugin, loaded or not.
        strict: Whether a failure is raised instead of recorded (`ZOO_STRICT_PLUGINS`).
    """

    def __init__(
        self,
        candidates: Iterable[PluginCandidate] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Load the plugins one by one; a failure is recorded and reported as a `PluginWarning`.

        Args:
            candidates: Entry points to load. None: all that are installed.
            environ: Environment variables. None: those of the process.
        """
        environ = os.environ if environ is None else environ
        self.strict = environ.get("ZOO_STRICT_PLUGINS", "") not in ("", "0")
        disabled = {name.strip() for name in environ.get("ZOO_DISABLE_PLUGINS", "").split(",")}
        self._manager = pluggy.PluginManager("zoo")
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        taken: dict[str, Plugin] = {}
        for candidate in sorted(installed_candidates() if candidates is None else candidates, key=_order):
            plugin = Plugin(candidate.name, candidate.distribution, candidate.version, candidate.entry_point.value)
            if candidate.name in taken:
                first = taken[candidate.name]
                if first.distribution == plugin.distribution and first.target == plugin.target:
                    continue  # one distribution found twice on the path, such as an editable install beside a wheel
            self.plugins.append(plugin)
            if candidate.name in disabled or candidate.name.removeprefix("zoo-") in disabled:
                plugin.disabled = True
                continue
            if candidate.name in taken:
                first = taken[candidate.name]
                self._fail(plugin, "load", ZooError(f"the name `{candidate.name}` belongs to `{first.distribution}`"))
                continue
            taken[candidate.name] = plugin
            self._load(plugin, candidate.entry_point)

    def _load(self, plugin: Plugin, point: Point) -> None:
        try:
            with _quiet(plugin):
                module = point.load()
            if self._manager.is_registered(module):
                raise ZooError(f"`{plugin.target}` is registered already, under another name")
            try:
                self._manager.register(module, plugin.name)
            except BaseException:
                if self._manager.is_registered(module):
                    self._manager.unregister(module)
                raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also `SystemExit`, and exceptions that are not derived from `Exception`
            self._fail(plugin, "load", error)
            return
        plugin.module = module
        unknown = [caller.name for caller in self._manager.get_hookcallers(module) or [] if not caller.has_spec()]
        known = [name for name in vars(hookspecs) if name.startswith("register_")]
        for name in unknown:
            near = did_you_mean(name, known, f"hooks are {', '.join(known)}")
            self._fail(plugin, name, ZooError(f"there is no hook `{name}`; {near}"))
        implemented = {caller.name for caller in self._manager.get_hookcallers(module) or []}
        for name, value in vars(module).items():
            if name in known and name not in implemented and inspect.isfunction(value):
                self._fail(plugin, name, ZooError(f"`{name}` is not marked with `@zoo.hookimpl`"))

    def _fail(self, plugin: Plugin, where: str, error: BaseException) -> None:
        if self.strict:
            raise error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        text = " ".join(lines) if isinstance(error, pluggy.PluginValidationError) else lines[0]
        if not isinstance(error, (ZooError, ImportError, pluggy.PluginValidationError)):
            text = f"{type(error).__name__}: {text}"
        plugin.failures[where] = text
        what = "could not be loaded" if where == "load" else f"failed in `{where}`"
        warnings.warn(
            f"plugin `{plugin.name}` ({plugin.distribution} {plugin.version}) {what}: {text}",
            PluginWarning,
            stacklevel=2,
        )

    def _collect(self, hook: str, noun: str, plural: str, target: str) -> Catalogue[Any]:
        kind = load_target(target)  # not imported at the top: a command needs some of the kinds
        assert isinstance(kind, type)
        entries: list[Entry[Any]] = []
        owners = {id(plugin.module): plugin for plugin in self.plugins if plugin.module is not None}
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        for plugin in self.plugins:  # in the order in which short names resolve
            for implementation in implementations:
                if owners.get(id(implementation.plugin)) is not plugin:
                    continue
                mine: dict[str, Entry[Any]] = {}

                def register(value: Any, /, mine: dict[str, Entry[Any]] = mine, plugin: Plugin = plugin) -> None:
                    _check_entry(value, noun, kind)
                    if plugin.distribution not in DISTRIBUTIONS:  # the rows of the others are checked by tests
                        from zoo.row import check_row  # not at the top: built-in rows are checked by a test

                        check_row(value, noun)
                    if value.name in mine:
                        raise ZooError(f"{noun} `{value.name}` is registered twice by `{plugin.name}`")
                    mine[value.name] = Entry(plugin.name, value)

                try:
                    with _quiet(plugin):
                        _check_done(hook, implementation.function(register), mine)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self._fail(plugin, hook, error)
                    continue
                plugin.provides[plural] = list(mine)
                entries.extend(mine.values())
        catalogue = Catalogue(noun, plural, entries)
        for plugin in self.plugins:
            if plugin.distribution in DISTRIBUTIONS:
                continue
            for name in plugin.provides.get(plural, []):
                first = catalogue.shadowed(catalogue.find(f"{plugin.name}/{name}"))
                if first is not None:
                    plugin.notes.append(
                        f"{noun} `{name}`: the short name means `{first.qualified}`; this one is `{plugin.name}/{name}`"
                    )
        return catalogue

    @cached_property
    def backbones(self) -> Catalogue[Backbone]:
        return self._collect("register_backbones", "backbone", "backbones", "zoo.backbone:Backbone")

    @cached_property
    def strategies(self) -> Catalogue[Any]:  # of type[Strategy], whose name and summary are class variables
        return self._collect("register_strategies", "strategy", "strategies", "zoo.strategy:Strategy")

    @cached_property
    def datasets(self) -> Catalogue[Dataset]:
        return self._collect("register_datasets", "dataset", "datasets", "zoo.dataset:Dataset")

    @cached_property
    def augmentations(self) -> Catalogue[Augmentation]:
        return self._collect("register_augmentations", "augmentation", "augmentations", "zoo.augmentation:Augmentation")

    @cached_property
    def losses(self) -> Catalogue[Loss]:
        return self._collect("register_losses", "loss", "losses", "zoo.loss:Loss")

    @cached_property
    def optimizers(self) -> Catalogue[Optimizer]:
        return self._collect("register_optimizers", "optimizer", "optimizers", "zoo.optimizer:Optimizer")

    @cached_property
    def schedules(self) -> Catalogue[Schedule]:
        return self._collect("register_schedules", "schedule", "schedules", "zoo.schedule:Schedule")

    @cached_property
    def callbacks(self) -> Catalogue[Callback]:
        return self._collect("register_callbacks", "callback", "callbacks", "zoo.callback:Callback")

    @cached_property
    def metrics(self) -> Catalogue[Metric]:
        return self._collect("register_metrics", "metric", "metrics", "zoo.metric:Metric")

    @cached_property
    def exporters(self) -> Catalogue[Exporter]:
        return self._collect("register_exporters", "exporter", "exporters", "zoo.exporter:Exporter")

    @cached_property
    def runtimes(self) -> Catalogue[Runtime]:
        return self._collect("register_runtimes", "runtime", "runtimes", "zoo.runtime:Runtime")

    @cached_property
    def commands(self) -> Catalogue[Command]:
        return self._collect("register_commands", "command", "commands", "zoo.command:Command")

    def load_everything(self) -> None:
        """Call every hook of every plugin, so that `plugins` lists everything they register and everything that fails.

        Hooks are otherwise called when a catalogue is first used.
        """
        for plural in KINDS:
            getattr(self, plural)


KINDS = (
    "backbones",
    "strategies",
    "datasets",
    "augmentations",
    "losses",
    "optimizers",
    "schedules",
    "callbacks",
    "metrics",
    "exporters",
    "runtimes",
    "commands",
)


def _check_done(hook: str, returned: object, registered: Mapping[str, Any]) -> None:
    """Check that a hook registered by calls, not by what it returns, which nobody reads.

    Raises:
        ZooError: it is a generator or a coroutine, of which no line has run, or it returned rows and registered none.
    """
    if inspect.iscoroutine(returned):
        returned.close()  # else Python warns that nobody awaited it
    elif not inspect.isgenerator(returned) and (returned is None or registered):
        return
    kind = type(returned).__name__
    raise ZooError(f"`{hook}` gives {article(kind)} `{kind}`; it must call `register` for each row, and return nothing")


def _quiet(plugin: Plugin) -> contextlib.AbstractContextManager[object]:
    """While a third party's plugin is loaded, what it prints goes to stderr."""
    return contextlib.nullcontext() if plugin.distribution in DISTRIBUTIONS else stdout_to_stderr()


def _order(candidate: PluginCandidate) -> tuple[int, int, str, str]:
    """Sort key: built-in plugins first, in `BUILT_IN_ORDER`, then third parties by name."""
    built_in = candidate.distribution in DISTRIBUTIONS
    rank = BUILT_IN_ORDER.index(candidate.name) if candidate.name in BUILT_IN_ORDER else len(BUILT_IN_ORDER)
    return (0 if built_in else 1, rank if built_in else 0, candidate.name, candidate.distribution)


def _check_entry(value: Any, noun: str, kind: type) -> None:
    """Check what a plugin registers.

    Raises:
        ZooError: it is of the wrong type, or its name or summary is not usable.
    """
    right = issubclass(value, kind) if isinstance(value, type) and noun == "strategy" else isinstance(value, kind)
    if not right:
        raise ZooError(f"`register` takes {article(noun)} (`zoo.{kind.__name__}`), not {value!r}")
    for attribute in ("name", "summary"):
        text = getattr(value, attribute, None)
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise ZooError(f"{article(noun)}'s `{attribute}` must be one line of printable text, not {text!r}")
    if any(character in value.name for character in "/,:+= \t"):
        raise ZooError(f"{article(noun)}'s name must not contain `/ , : + =` or a space: `{value.name}`")
