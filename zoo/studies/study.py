"""Study: the description of a study (backbones, strategies, seeds, fractions, settings, bounds) and its trials."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.config.ranges import expand_ranges
from zoo.config.references import absolute_strategy, absolute_weights, look_up
from zoo.data.exclusion import absolute_list
from zoo.data.opening import absolute
from zoo.dataset import LOCKED
from zoo.errors import UsageError, at_once, did_you_mean
from zoo.experiment import Experiment, attribute_docs
from zoo.plugin import Plugins
from zoo.runs.settings_file import Line, read_settings, settings_text
from zoo.storage.paths import data_text
from zoo.studies.pruners import PRUNERS
from zoo.studies.trial import Trial

# Settings of an experiment that a study sets for each trial
OWN_SETTINGS = ("data", "backbone", "strategy", "seed", "fraction")

# Fields of a study that may differ when it is continued, because they do not change its trials
OF_A_SESSION = ("time_budget",)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The description of a study: every backbone with every strategy, and the pairs in `also`.

    Attributes:
        data: Images: a folder, or `NAME:ARGUMENT` of a dataset.
        backbones: Names of the networks to fine-tune.
        strategies: Strategies, such as `linear` or `partial:2`. Options that are whole numbers may be ranges:
            `partial:1..3` stands for three strategies.
        also: More pairs of a backbone and a strategy.
        seeds: Seeds that every configuration is trained with.
        fractions: Shares of the training images that every configuration is trained on.
        settings: Settings of every trial, by the names of `Experiment`.
        max_latency: Seconds that one image may take through the exported network on this machine (p50). None: no bound.
        max_size: Largest exported file in bytes. None: no bound.
        licenses: Patterns of licences of weights that may be used; empty: all.
        search: Settings tried for each pair, by the validation loss; 0: none.
        pruner: What ends trials of the search early: `median`, `asha`, `hyperband` or `none`.
        time_budget: Seconds after which no further trial begins. None: no limit.
        test: Whether the winners are evaluated on the locked split, once, at the end.
    """

    data: str
    backbones: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    fractions: tuple[float, ...] = (1.0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_latency: float | None = None
    max_size: int | None = None
    licenses: tuple[str, ...] = ()
    search: int = 0
    pruner: str = PRUNERS[0]
    time_budget: float | None = None
    test: bool = True

    def __post_init__(self) -> None:
        """Check every value and report all problems at once.

        Raises:
            UsageError: a value is not valid; the message names each.
        """
        problems = self._normalise()
        if problems:
            raise UsageError("; ".join(problems), hint="see docs/reference/study-folder.md for a study file")
        if not self.data:
            problems.append("`data` is empty")
        if not self.also and not (self.backbones and self.strategies):
            problems.append("a study needs a backbone and a strategy")
        elif bool(self.backbones) != bool(self.strategies):
            problems.append("a backbone needs a strategy, and a strategy a backbone")
        for name in ("backbones", "strategies", "also", "seeds", "fractions"):
            values = getattr(self, name)
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                problems.append(f"`{twice[0]}` is given twice in `{name}`")
        if not self.seeds or not self.fractions:
            problems.append("a study needs a seed and a fraction")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                problems.append(f"a fraction of `{fraction}` is not a share above 0 and up to 1, such as 0.1")
        for name, value, form in (
            ("max_latency", self.max_latency, "seconds, such as 0.02"),
            ("max_size", self.max_size, "bytes, such as 20000000"),
            ("time_budget", self.time_budget, "seconds, such as 1800"),
        ):
            if value is not None and not (_is(value, int, float) and 0 < value < math.inf):
                problems.append(f"`{name} {value}` is not a positive number of {form}")
        if not _is(self.search, int) or not 0 <= self.search <= 10_000:
            problems.append(f"`search {self.search}` is not a whole number from 0 to 10,000")
        if self.pruner not in PRUNERS:
            problems.append(f"`pruner {self.pruner}` is not one of {' '.join(PRUNERS)}")
        elif self.pruner != PRUNERS[0] and not self.search:
            problems.append(f"`pruner {self.pruner}` has no meaning without `search`")
        elif self.pruner not in (PRUNERS[0], "none") and self.settings.get("folds") is not None:
            problems.append(f"`pruner {self.pruner}` has no meaning with `folds`, of which only the whole counts")
        taken = [name for name in self.settings if name in OWN_SETTINGS]
        if taken:
            problems.append(f"`{taken[0]}` cannot be among `settings`: the study sets it for each trial")
        if self.settings.get("unknown_rate") is not None:
            problems.append("`unknown_rate` is for one run: train the winner again with `zoo train --unknown-rate`")
        if self.settings.get("folds") is not None and self.settings.get("on_leak") == "drop":
            problems.append("`on_leak drop` has no meaning with `folds`: each fold would drop other images")
        if self.settings.get("from_run") is not None:
            problems.append("`from_run` is for one run: train the winner with `zoo train --from`")
        if problems:
            raise UsageError("; ".join(problems), hint="see `zoo study --help`")

    def _normalise(self) -> list[str]:
        """Make tuples of lists and of single values; returns a problem for each value of another type."""
        problems = []
        if isinstance(self.data, Path):
            object.__setattr__(self, "data", data_text(self.data))
        if not isinstance(self.data, str):
            problems.append(f"`data` is {self.data!r}, not the path of a folder")
        for name, kinds, what in (
            ("backbones", (str,), "names"),
            ("strategies", (str,), "strategies"),
            ("seeds", (int,), "whole numbers"),
            ("fractions", (int, float), "numbers"),
            ("licenses", (str,), "patterns"),
        ):
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            if not all(_is(one, *kinds) for one in values):
                problems.append(f"`{name}` is {value!r}, not a list of {what}")
            object.__setattr__(self, name, values)
        pairs = self.also if isinstance(self.also, (list, tuple)) else (self.also,)
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_text(*pair) for pair in pairs):
            problems.append(f"`also` is {self.also!r}, not a list of pairs of a backbone and a strategy")
        else:
            object.__setattr__(self, "also", tuple((one, other) for one, other in pairs))
        if not isinstance(self.settings, Mapping):
            problems.append(f"`settings` is {self.settings!r}, not a table")
        else:
            object.__setattr__(self, "settings", dict(self.settings))
        return problems

    def experiment(self, trial: Trial, tuned: Mapping[str, Any] | None = None) -> Experiment:
        """The experiment of a trial; `tuned` are settings that the search found, options of the strategy among them."""
        return Experiment.from_json(
            {
                **self.settings,
                "data": self.data if self.data.startswith(f"{LOCKED}:") else f"{LOCKED}:{self.data}",
                "backbone": trial.backbone,
                "strategy": trial.strategy,
                "seed": trial.seed,
                "fraction": trial.fraction,
                **(tuned or {}),
            }
        )

    def trials(self, plugins: Plugins) -> tuple[Trial, ...]:
        """All trials in the order in which they begin: every configuration with the first seed, then with the next.

        A study that ends early has thus compared all configurations, if with fewer seeds. Trials of one backbone follow
        each other, because they share cached outputs of frozen stages.

        Raises:
            UsageError: names or settings are unknown (all are reported at once), or a backbone or a strategy is given
                under two names.
        """
        known: dict[str, Any] = {"backbone": {}, "strategy": {}}
        problems: list[UsageError] = []
        found: list[tuple[str, str]] = []
        pairs: list[tuple[str, str]] = []
        for backbone, text in [*((one, other) for one in self.backbones for other in self.strategies), *self.also]:
            try:
                pairs += [(backbone, strategy) for strategy in expand_ranges(text, plugins.strategies)]
            except UsageError as error:
                problems.append(error)
        for one, other in pairs:
            trial = Trial(backbone=one, strategy=other, seed=self.seeds[0], fraction=self.fractions[0])
            try:
                names = look_up(self.experiment(trial), plugins)
            except UsageError as error:
                problems.append(error)
                continue
            for kind, asked, canonical in (
                ("backbone", one, names.backbone.qualified),
                ("strategy", other, str(names.plan)),
            ):
                before = known[kind].setdefault(canonical, asked)
                if before != asked:
                    text = f"`{before}` and `{asked}` are two names of one {kind}, `{canonical}`"
                    problems.append(UsageError(text, hint="give it once"))
            if self.test and self.settings.get("folds") is not None and names.schedule.entry.value.lowering is not None:
                text = f"`folds` with `schedule {names.schedule}` needs `--no-test`: a final run has no validation loss"
                problems.append(UsageError(text, hint="see `zoo study --help`"))
            found.append((names.backbone.qualified, str(names.plan)))
        if problems:
            raise at_once(list({error.message: error for error in problems}.values()))
        return tuple(
            Trial(backbone=one, strategy=other, seed=seed, fraction=float(fraction))
            for fraction in sorted(self.fractions, reverse=True)
            for seed in self.seeds
            for one, other in dict.fromkeys(found)
        )

    def located(self, plugins: Plugins, base: Path | None = None) -> Study:
        """The study with all paths absolute, so that it can be continued from any folder.

        Args:
            plugins: Loaded plugins.
            base: The folder that relative paths begin at. None: the current one.

        Raises:
            UsageError: a path cannot be used.
        """
        settings = dict(self.settings)
        for name, resolve in (("weights", absolute_weights), ("exclude", absolute_list)):
            if isinstance(settings.get(name), str) and settings[name]:
                settings[name] = resolve(settings[name], base)
        return dataclasses.replace(
            self,
            data=absolute(self.data, plugins, base),
            strategies=tuple(absolute_strategy(text, base) for text in self.strategies),
            also=tuple((backbone, absolute_strategy(text, base)) for backbone, text in self.also),
            settings=settings,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Study:
        """Read what `to_json` wrote, or the tables of a study file.

        Raises:
            UsageError: a key is unknown.
        """
        names = {entry.name for entry in dataclasses.fields(cls)}
        for key in data:
            if key not in names:
                raise UsageError(f"unknown key `{key}` of a study", hint=did_you_mean(key, names, "see `zoo study -h`"))
        if "data" not in data:
            raise UsageError("a study needs `data`", hint='data = "photos"')
        return cls(**data)

    @classmethod
    def from_file(cls, file: Path, plugins: Plugins | None = None) -> Study:
        """Read a study file: TOML whose keys are the fields. Relative paths begin at the file's folder.

        Raises:
            UsageError: the file cannot be read, is not TOML, has an unknown key, or a value is wrong.
        """
        data, plugins = read_settings(file, "study file"), plugins or Plugins()
        try:
            return cls.from_json(data).located(plugins, file.absolute().parent)
        except UsageError as error:
            raise UsageError(f"`{file}`: {error.message}", hint=error.hint) from error

    def to_toml(self, plugins: Plugins) -> str:
        """The study as a file that `from_file` reads from any folder, with a comment for each key.

        Raises:
            UsageError: a text holds a password or a signature.
        """
        asked = self.located(plugins).to_json()
        settings = asked.pop("settings")
        return settings_text(
            _lines(asked, attribute_docs(Study)),
            "A study of zoo: `zoo study FILE` carries it out. Options on the command line win over the file. Relative "
            "paths begin at the folder of this file. A key behind `#` is not set",
            "settings",
            _lines(settings, attribute_docs(Experiment)),
        )


def _lines(values: Mapping[str, Any], docs: Mapping[str, str]) -> list[Line]:
    """Values as lines of a file, with their descriptions."""
    lines = []
    for name, value in values.items():
        text, _, unset = docs.get(name, "").partition(" None: ")
        lines.append(Line(key=name, value=value, text=f"{text} [default: {unset.rstrip('.')}]" if unset else text))
    return lines


def _is(value: Any, *kinds: type) -> bool:
    """Whether a value has one of these types; True and False do not count as numbers."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def same_study(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    """Names of the fields in which two studies differ, without those that may differ from session to session."""
    names = {*one, *other} - set(OF_A_SESSION)
    return sorted(name for name in names if _plain(one.get(name)) != _plain(other.get(name)))


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
