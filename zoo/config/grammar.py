"""The grammar of strategies: `[PROVIDER/]NAME[:VALUE][,KEY=VALUE]...[+NEXT]...`. A shell needs no quotes around it.

    partial:2
    linear,epochs=2+full,lr=0.1
    acme/fancy:3,depth=2,norm=frozen

`:VALUE` is the strategy's first option. `epochs`, `lr`, `norm`, `ema`, `mixup`, `cutmix`, `bss`, `stochnorm` and
`distill` with its options belong to every phase.
The canonical form of a text has the same meaning as the text: `parse(canonical(parse(text))) == parse(text)`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zoo.catalogue import Catalogue, Entry
from zoo.config.option_hints import of_strategy, setting_hint
from zoo.config.other_words import strategy_hint
from zoo.errors import UsageError, ZooError, counted, did_you_mean
from zoo.row import check_row
from zoo.stage import Anatomy, check_anatomy
from zoo.strategy import NORMS, RESERVED, STEP_WORDS, Norm, Phase, Strategy, check_phase

if TYPE_CHECKING:
    from zoo.backbone import BuildSpec, Network

# Bounds of `lr=`, a factor of the learning rate. A factor outside them is a typing error, and one far larger would
# overflow the rate. The product with `--lr` must also be within the bounds of `--lr`
LEAST_LR, MOST_LR = 1e-12, 1e6
# The same bound as for `--epochs`
MOST_EPOCHS = 1_000_000
# Bound of the parameter alpha of a beta distribution: from here on every draw is one half
MOST_ALPHA = 1e6
MOST_SHRINKAGE = 1000.0  # of `bss`; the authors take 0.001


@dataclass(frozen=True, kw_only=True)
class StrategyTerm:
    """One strategy of a text such as `linear+full`, with the options that every strategy has.

    The options `epochs` to `distill_weight` override what the strategy's phases say; None leaves it.

    Attributes:
        strategy: The strategy with its own options.
        provider: Name of the plugin, where the short name means another strategy; else None.
        epochs: Number of epochs, shared by the phases.
        lr: Factor of the learning rate of every phase.
        norm: What happens to running statistics.
        ema: Decay of the moving average of weights.
        mixup: Alpha of mixup.
        cutmix: Alpha of CutMix.
        bss: Strength of batch spectral shrinkage.
        stochnorm: Probability that a channel is normalised by its batch; `norm` is `train` where it is not given.
        distill: Folder of the run that teaches.
        distill_temperature: Divisor of logits before they are compared with the teacher's.
        distill_weight: Share of the teacher in the loss.
    """

    strategy: Strategy
    provider: str | None = None
    epochs: int | None = None
    lr: float | None = None
    norm: Norm | None = None
    ema: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    bss: float | None = None
    stochnorm: float | None = None
    distill: str | None = None
    distill_temperature: float | None = None
    distill_weight: float | None = None

    @property
    def step_words(self) -> tuple[str, ...]:
        """The options that are given and that have a meaning only for optimiser steps."""
        given = tuple(word for word in STEP_WORDS if getattr(self, word) is not None)
        return (*given, "norm") if self.norm == "train" else given


@dataclass(frozen=True)
class ParsedStrategy:
    """A strategy text that was parsed: strategies joined by `+`, which are carried out in order."""

    parts: tuple[StrategyTerm, ...]

    def __str__(self) -> str:
        return canonical(self)

    @property
    def pretrained(self) -> bool:
        """Whether training starts from published weights. It does not with `scratch`."""
        return all(part.strategy.pretrained for part in self.parts)

    def adapt(self, network: Network, spec: BuildSpec) -> Network:
        """Apply the permanent changes of every strategy; see `Strategy.adapt`.

        Raises:
            UsageError: the network cannot be changed in this way.
            ValueError: a plugin's strategy left parameters in no stage.
        """
        for part in self.parts:
            network = part.strategy.adapt(network, spec)
        check_anatomy(network.anatomy, [name for name, _ in network.model.named_parameters()])
        return network

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        """Add what the strategies need only for training; see `Strategy.attach`. It raises as `adapt` does."""
        for part in self.parts:
            network = part.strategy.attach(network, spec)
        check_anatomy(network.anatomy, [name for name, _ in network.model.named_parameters()])
        return network

    def merge(self, network: Network) -> Network:
        """Undo `attach`; see `Strategy.merge`."""
        for part in reversed(self.parts):
            network = part.strategy.merge(network)
        return network

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        """The phases of all strategies for a network with these stages, checked.

        Raises:
            UsageError: the options do not fit the network.
            ZooError: a strategy returns something other than phases.
        """
        found = []
        for part in self.parts:
            given = part.strategy.phases(anatomy)
            _check_phases(given, str(self))
            phases = _with_steps_if_asked(part, given)
            shares = None
            if part.epochs is not None:
                shares = share_epochs(phases, part.epochs, part.epochs, str(self), option="epochs=")
            for index, phase in enumerate(phases):
                changed = replace(
                    phase,
                    lr=phase.lr if part.lr is None else phase.lr * part.lr,
                    norm=part.norm or (phase.norm if part.stochnorm is None else "train"),
                    epochs=phase.epochs if shares is None or phase.solver else shares[index],
                    ema=phase.ema if part.ema is None else part.ema,
                    mixup=phase.mixup if part.mixup is None else part.mixup,
                    cutmix=phase.cutmix if part.cutmix is None else part.cutmix,
                    bss=phase.bss if part.bss is None else part.bss,
                    stochnorm=phase.stochnorm if part.stochnorm is None else part.stochnorm,
                    distill=phase.distill if part.distill is None else part.distill,
                    **_softening(part),
                )
                check_phase(changed, anatomy, str(self))
                found.append(changed)
        return tuple(found)


def _softening(part: StrategyTerm) -> dict[str, Any]:
    """What a term says of how its teacher is listened to."""
    said = {word: getattr(part, word) for word in ("distill_temperature", "distill_weight")}
    return {word: value for word, value in said.items() if value is not None}


def _check_phases(phases: Any, strategy: str) -> None:
    """Check the type of what a strategy returns, and of each field; `check_phase` checks the values.

    Raises:
        ZooError: it is wrong.
    """
    if not isinstance(phases, (tuple, list)) or not phases or not all(isinstance(one, Phase) for one in phases):
        raise ZooError(f"strategy `{strategy}` returns {phases!r}, not a tuple of `zoo.Phase`")
    for phase in phases:
        check_row(phase, f"phase of `{strategy}`")
        for group in phase.groups:
            check_row(group, f"group of `{strategy}`")


def _with_steps_if_asked(part: StrategyTerm, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases, with optimiser steps in place of a solver if an option is given that only steps have.

    Raises:
        UsageError: such an option is given, but the phases can only be solved.
    """
    if not part.step_words or not all(phase.solver for phase in phases):
        return phases
    if not all(phase.steps_if_asked for phase in phases):
        alone = _canonical_part(StrategyTerm(strategy=part.strategy, provider=part.provider))  # `linear,solver=lbfgs`
        raise UsageError(
            f"`{alone}` takes no optimiser steps, so `{part.step_words[0]}=` has no effect",
            hint=f"leave `{part.step_words[0]}=` out",
        )
    return tuple(replace(phase, solver=None) for phase in phases)


def _share(total: int, asked: list[int | None]) -> list[int]:
    """Share `total` epochs among phases. If they cannot be shared equally, later phases get one more."""
    fixed = sum(count for count in asked if count is not None)
    free = [index for index, count in enumerate(asked) if count is None]
    rest = total - fixed
    shares = [count or 0 for count in asked]
    for position, index in enumerate(free):
        shares[index] = rest * (position + 1) // len(free) - rest * position // len(free)
    return shares


def share_epochs(
    phases: tuple[Phase, ...], epochs: int | None, default: int, strategy: str, option: str = "--epochs "
) -> tuple[int, ...]:
    """The number of epochs of each phase; 0 for a phase with a solver.

    It is the phase's own number if it has one. The phases without one share equally what the others leave.

    Args:
        phases: The phases.
        epochs: Epochs of all phases together. None: `default`, or more if the phases need more.
        default: See `epochs`.
        strategy: The strategy's text, for messages.
        option: How the user writes `epochs`, for messages.

    Raises:
        UsageError: no epoch is left for a phase, or every phase has its own number and their sum is not `epochs`.
    """
    asked = [0 if phase.solver else phase.epochs for phase in phases]
    fixed = sum(count for count in asked if count is not None)
    free = asked.count(None)
    if free == 0:
        if epochs is not None and epochs != fixed:
            raise UsageError(
                f"strategy `{strategy}` has {counted(fixed, 'epoch')} in all, but `{option}{epochs}` asks for {epochs}",
                hint=f"leave `{option}{epochs}` out, or leave `epochs=` out of one phase, which then gets the rest",
            )
        return tuple(count for count in asked if count is not None)
    total = epochs if epochs is not None else max(default, fixed + free)
    if total - fixed < free:
        raise UsageError(
            f"strategy `{strategy}`: of {counted(total, 'epoch')}, {max(total - fixed, 0)} are left for "
            f"{counted(free, 'phase')} without a number of epochs",
            hint=f"pass `{option}{fixed + free}` or more",
        )
    return tuple(_share(total, asked))


def parse(text: str, strategies: Catalogue[Any]) -> ParsedStrategy:
    """Parse a strategy text with the strategies of a catalogue.

    Raises:
        UsageError: the text is wrong; everything that is wrong with it is reported together.
    """
    problems: list[str] = []
    hints: list[str] = []
    parts = []
    for index, piece in enumerate(text.split("+")):
        name = piece.partition(",")[0].partition(":")[0].strip()
        if name not in strategies:
            problems.append(f"unknown strategy `{name}`" if name else "a name is missing")
            spare = "+" if "+" in text else ","
            hints.append(
                strategy_hint(name, [entry.name for entry in strategies])
                if name
                else f"leave the `{spare}` out, or name a strategy: see `zoo list strategies`"
            )
            continue
        entry = strategies.find(name)
        part = _parse_part(piece.strip(), entry, problems, hints)
        if index > 0 and part is not None and part.strategy.opens:
            problems.append(f"nothing can come before `{entry.name}`: {part.strategy.opens}")
        if entry.value.alone and "+" in text:
            problems.append(f"nothing can be joined to `{entry.name}`: {entry.value.alone}")
        if part is not None:
            short = strategies.find(entry.name) is entry
            parts.append(replace(part, provider=None if short else entry.provider))
    if problems:
        form = "NAME[:VALUE][,KEY=VALUE]...[+NEXT]..., see `zoo list strategies`"
        message = "; ".join(dict.fromkeys(problems))
        where = "" if message == f"unknown strategy `{text}`" else f"strategy `{text}`: "
        raise UsageError(where + message, hint=hints[0] if hints else f"write {form}")
    return ParsedStrategy(tuple(parts))


def _parse_part(piece: str, entry: Entry[Any], problems: list[str], hints: list[str]) -> StrategyTerm | None:
    """Parse one strategy with its options. Errors are added to `problems`, and their fixes to `hints`.

    Returns None if the strategy cannot be made, since a required option is missing or a value is refused.
    """
    head, *pairs = piece.split(",")
    name, colon, value = head.partition(":")
    kind: type[Strategy] = entry.value
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = {**_RESERVED_TYPES, **typing.get_type_hints(kind)}
    options: dict[str, Any] = {}
    words: dict[str, Any] = {}
    tried: set[str] = set()

    def hint_at(option: str) -> None:
        hints.append(str(of_strategy(kind, option, types)))

    if colon:
        said = value.partition("=")[0].strip()
        if not fields:
            problems.append(f"`{kind.name}` takes no value, but `:{value}` is given")
            hints.append(f"write `{kind.name}`; options of every strategy stand behind a comma, as in `full,epochs=2`")
        elif "=" in value and (said in fields or said in RESERVED):
            problems.append(f"`{value}` stands after the colon, where the value of `{next(iter(fields))}` does")
            hints.append(f"write `{name},{value}`")
            tried.update(fields)
        else:
            first = next(iter(fields))
            if value.strip():
                pairs.insert(0, f"{first}={value}")
            else:
                tried.add(first)
                problems.append(f"a value is missing after `{name}:`")
                hint_at(first)
    for pair in pairs:
        key, equals, raw = (word.strip() for word in pair.partition("="))
        if not equals or not raw:
            problems.append(f"`{pair}` is not written KEY=VALUE")
            tried.add(key)
            if key in fields or key in RESERVED:
                hint_at(key)
            elif not pair.strip():
                hints.append("remove the comma that is too much")
        elif key in tried:
            problems.append(f"`{key}` is given twice")
            hints.append(f"give `{key}` once")
        elif key in RESERVED or key in fields:
            tried.add(key)
            before = len(problems)
            read_value(key, raw, types[key], words if key in RESERVED else options, problems)
            if len(problems) > before:
                hint_at(key)
        else:
            problems.append(f"`{kind.name}` has no option `{key}`")
            known = [*fields, *RESERVED]
            hints.append(setting_hint(key) or did_you_mean(key, known, f"it has {' '.join(known)}"))
    lacking = False
    for field in fields.values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        lacking |= required and field.name not in options
        if required and field.name not in tried:
            leads = field.name == next(iter(fields))
            problems.append(f"`{kind.name}` needs {f'a value, as in `{kind.name}:2`' if leads else f'`{field.name}=`'}")
            hint_at(field.name)
    for word, problem in _out_of_bounds(words):
        problems.append(problem)
        hint_at(word)
    if lacking:
        return None
    try:
        return StrategyTerm(strategy=kind(**options), **words)
    except UsageError as error:
        problems.append(error.message)
        if error.hint:
            hints.append(error.hint)
        elif options:
            hint_at(next(iter(options)))
        return None


def _out_of_bounds(words: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options in `RESERVED` whose values are out of bounds, each with a message."""
    if "epochs" in words and words["epochs"] < 1:
        yield "epochs", f"`epochs={words['epochs']}` is less than 1"
    elif "epochs" in words and words["epochs"] > MOST_EPOCHS:
        yield "epochs", f"`epochs={words['epochs']}` is more than {MOST_EPOCHS}"
    if "lr" in words and not (math.isfinite(words["lr"]) and words["lr"] > 0):
        yield "lr", f"`lr={words['lr']}` is not a positive number"
    elif "lr" in words and not LEAST_LR <= words["lr"] <= MOST_LR:
        bound = f"more than {MOST_LR:.0f}" if words["lr"] > MOST_LR else f"less than {LEAST_LR:g}"
        yield "lr", f"`lr={words['lr']:g}` is {bound}; it is a factor of the learning rate"
    for word in ("ema", "stochnorm"):
        if word in words and not 0 < words[word] < 1:
            yield word, f"`{word}={words[word]}` is not between 0 and 1"
    for word in ("distill_temperature", "distill_weight"):
        if word in words and "distill" not in words:
            yield word, f"`{word}=` has no effect without `distill=RUN`"
    for word, most in (("mixup", MOST_ALPHA), ("cutmix", MOST_ALPHA), ("bss", MOST_SHRINKAGE)):
        if word in words and not (math.isfinite(words[word]) and words[word] > 0):
            yield word, f"`{word}={words[word]}` is not a positive number"
        elif word in words and words[word] > most:
            yield word, f"`{word}={words[word]:g}` is more than {most:.0f}"


_RESERVED_TYPES: dict[str, Any] = {
    "epochs": int,
    "lr": float,
    "norm": Literal[NORMS],
    "ema": float,
    "mixup": float,
    "cutmix": float,
    "bss": float,
    "stochnorm": float,
    "distill": str,
    "distill_temperature": float,
    "distill_weight": float,
}


def read_value(key: str, raw: str, kind: Any, into: dict[str, Any], problems: list[str]) -> None:
    """Read `raw` as a value of the annotated type into `into[key]`; an error is added to `problems`."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if str(choice) == raw:
                into[key] = choice
                return
        problems.append(f"`{key}={raw}`: known are {' '.join(map(str, choices))}")
    elif kind is bool:
        if raw in ("true", "false"):
            into[key] = raw == "true"
        else:
            problems.append(f"`{key}={raw}` is not true or false")
    elif kind is int:
        if re.fullmatch(r"-?[0-9]{1,9}", raw):
            into[key] = int(raw)
        elif re.fullmatch(r"-?[0-9]+", raw):
            problems.append(f"`{key}={raw}` is too large")
        else:
            is_range = re.fullmatch(r"-?[0-9]+\.\.-?[0-9]+", raw)
            problems.append(
                f"`{key}={raw}` is {'a range, which `zoo study` takes' if is_range else 'not a whole number'}"
            )
    elif kind is float:
        try:
            if not raw.isascii() or "_" in raw:  # Python would read `1_000` and digits of other scripts as numbers
                raise ValueError
            into[key] = float(raw)
        except ValueError:
            problems.append(f"`{key}={raw}` is not a number")
    else:
        assert kind is str, f"option `{key}`: options of type {kind} are not supported"
        into[key] = raw


def canonical(plan: ParsedStrategy) -> str:
    """The canonical text of a strategy: options that differ from their defaults, in the order of their fields."""
    return "+".join(_canonical_part(part) for part in plan.parts)


def _canonical_part(part: StrategyTerm) -> str:
    text = f"{part.provider}/{part.strategy.name}" if part.provider else part.strategy.name
    pairs = []
    for index, field in enumerate(dataclasses.fields(part.strategy)):
        value = getattr(part.strategy, field.name)
        if index == 0 and value != field.default:
            text += f":{write_value(value)}"
        elif value != field.default:
            pairs.append(f"{field.name}={write_value(value)}")
    for key in RESERVED:
        value = getattr(part, key)
        if value is not None:
            pairs.append(f"{key}={write_value(value)}")
    return ",".join([text, *pairs])


def write_value(value: Any) -> str:
    """An option's value as a user writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).replace("e+", "e")  # `+` joins phases
    return str(value)
