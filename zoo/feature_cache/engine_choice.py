"""The choice of an engine: one for all frozen prefixes of a run, by a measurement, made once and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from zoo.errors import ZooError, type_and_first_line
from zoo.experiment import Engine
from zoo.exporter import FrozenEngine
from zoo.feature_cache import engine as engine_module
from zoo.feature_cache.engine import (
    COMPILED,
    TORCH,
    BlockCompute,
    EngineFailed,
    OpenedEngine,
    engines_of,
    in_bf16,
    is_kept,
    lacking,
    open_engine,
    version_of,
)
from zoo.feature_cache.split_network import Rows, SplitNetwork
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.storage.cache import read_memo, source_key, write_memo
from zoo.storage.tensor_store import Store, digest_of_texts
from zoo.system.environment import machine, versions

# What is expected of an engine of which nothing is measured yet: its time of an image as a share of torch's in fp32,
# for networks with depthwise convolutions and for others, and the seconds to make it ready; measurements are in
# benchmarks/results/engines.md
EXPECTED = {"onnxruntime": (0.6, 0.85), "openvino": (0.6, 0.85), COMPILED: (0.75, 0.9)}
READY = {"onnxruntime": 2.0, "openvino": 3.0, COMPILED: 35.0}
BF16 = 0.55  # torch's time in bf16 as a share of that in fp32, where bf16 is taken
# Time of an engine that computes in bf16 as a share of torch's in bf16
EXPECTED_BF16 = {"openvino": (0.4, 0.7)}
OPEN = 0.5  # seconds to open one that is kept, with the import of its library
MARGIN = 1.5  # the time that an engine saves must be so many times what it costs, since both are estimates

# An engine is taken if an image takes it at most this share of torch's time
WORTH = 0.9

KEPT = 200  # choices and measurements that are remembered


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the frozen prefixes of a run compute.

    Attributes:
        images: Images, each counted once for every view, of all phases and of evaluation.
        networks: Different prefixes, each of which must be made ready.
        digest: Identifies the images.
    """

    images: int
    networks: int = 1
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine of a run.

    Attributes:
        name: What computes its frozen prefixes.
        reason: Why, for the user.
        images_per_second: Measured throughput of torch and of engines that were tried, in blocks of the run's size.
    """

    name: str
    reason: str
    images_per_second: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "reason": self.reason, "images_per_second": dict(self.images_per_second)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> EngineChoice:
        """The choice of a run's record."""
        return cls(
            name=kept["name"],
            reason=kept.get("reason") or "as the run began",
            images_per_second=kept.get("images_per_second") or {},
        )


def check_engine(asked: Engine, place: torch.device, plugins: Plugins) -> None:
    """Check that an engine that was asked for can be had on this machine, before anything is computed.

    Raises:
        ZooError: it cannot.
    """
    if asked in ("auto", TORCH):
        return
    if place.type != "cpu":
        raise ZooError(
            f"`--engine {asked}` computes on the CPU, and the run on `{place}`",
            hint="pass `--device cpu`, or leave `--engine` out",
        )
    why = lacking(asked, engines_of(plugins))
    if why is not None:
        raise ZooError(f"`--engine {asked}` cannot be had: {why}", hint="install it, or start a run without `--engine`")


class RunEngine:
    """The engine of one run, chosen when the first prefix is known, and opened for each network when it computes.

    Neither depends on whether outputs are kept (`--cache`), so that runs with and without kept outputs are equal.

    Attributes:
        choice: None until it is made.
        told: Called with the choice, when it is made and if it changes.
    """

    def __init__(
        self,
        asked: Engine,
        *,
        plugins: Plugins,
        progress: Progress,
        store: Store | None,
        work: Work,
        began_with: EngineChoice | None = None,
        shared: dict[str, str] | None = None,
    ) -> None:
        """Prepare the choice.

        Args:
            asked: The setting `--engine`.
            plugins: Bring engines.
            progress: Receives notes and warnings.
            store: Where converted networks are kept. None: they are not.
            work: What the run computes.
            began_with: The choice that the run began with. None: it is a new one.
            shared: Names of engines by prefix, of runs in one process that share rows.
        """
        self.asked = asked
        self.work = work
        self.choice: EngineChoice | None = None
        self.told: Callable[[EngineChoice], None] = lambda choice: None
        self._began_with = began_with
        self._engines = engines_of(plugins)
        self._progress = progress
        self._store = store
        self._shared = shared if shared is not None else {}
        self._opened: dict[str, OpenedEngine] = {}  # by the digest of the network
        self._failed: set[str] = set()  # digests of networks that torch computes instead

    def begin_with(self, choice: EngineChoice) -> None:
        """Take a choice that was made elsewhere, unless one is made already."""
        self._began_with = choice

    def name(self, split: SplitNetwork) -> str:
        """Name of the engine of a network, once `choose` was called."""
        assert self.choice is not None
        return TORCH if split.digest() in self._failed else self.choice.name

    def key(self, split: SplitNetwork) -> str:
        """What the rows of a network depend on besides it: the name and the version of its engine."""
        name = self.name(split)
        return f"{name} {version_of(self._engines[name])}" if name in self._engines else name

    def choose(self, split: SplitNetwork, block: int, sample: Callable[[], torch.Tensor]) -> None:
        """Choose an engine, if that has not been done; `sample` makes a block of images of the run."""
        if self.choice is not None:
            return
        if self._began_with is not None:
            began = self._began_with
            self._decide(began.name, began.reason, began.images_per_second)
        elif self.asked != "auto":
            self._decide(self.asked, "as asked")
        elif split.place.type != "cpu":
            self._decide(TORCH, f"other engines compute on the CPU, and the run on {split.place}")
        else:
            self._by_cost(split, block, sample)

    def compute(self, split: SplitNetwork, block: int, sample: Callable[[], torch.Tensor]) -> BlockCompute | None:
        """What computes the blocks of a network; None: torch. Before its first use it is compared with torch.

        Raises:
            ZooError: the engine was asked for, and cannot be had for this network.
        """
        if self.name(split) == TORCH:
            return None
        digest = split.digest()
        if digest not in self._opened:
            try:
                self._opened[digest] = self._open(self.name(split), split, block, sample())
            except EngineFailed as error:
                assert self.choice is not None
                text = f"`{self.choice.name}` cannot compute the frozen layers: {error}"
                if self.asked != "auto":
                    raise ZooError(
                        f"`--engine {self.asked}`: {error}", hint="`--engine auto` takes torch in such a case"
                    ) from error
                self._failed.add(digest)
                if text not in self.choice.reason:  # said once for all networks of the run
                    self._progress.warn(f"{text}; torch computes them")
                    self.choice = replace(self.choice, reason=f"{self.choice.reason}; {text}")
                    self.told(self.choice)
                return None
        return self._told_of(self._opened[digest].compute, self.name(split))

    @staticmethod
    def _told_of(compute: BlockCompute, name: str) -> BlockCompute:
        """The same, whose errors become one line: torch does not take over where rows of another engine are in use."""

        def told(inputs: torch.Tensor) -> Rows:
            try:
                return compute(inputs)
            except Exception as error:  # of any type, from engines
                text = str(error) if isinstance(error, EngineFailed) else type_and_first_line(error)
                raise ZooError(
                    f"engine `{name}` failed while it computed frozen layers: {text}",
                    hint="if it does so again, pass `--engine torch`",
                ) from error

        return told

    def _decide(self, name: str, reason: str, speeds: Mapping[str, float] | None = None) -> None:
        self.choice = EngineChoice(name=name, reason=reason, images_per_second=speeds or {})
        self.told(self.choice)

    def _open(self, name: str, split: SplitNetwork, block: int, sample: torch.Tensor) -> OpenedEngine:
        if name == COMPILED:
            self._progress.note(f"engine {name}: compiling the frozen layers takes about half a minute")
        return open_engine(name, split, block, sample, engines=self._engines, store=self._store)

    def _by_cost(self, split: SplitNetwork, block: int, sample: Callable[[], torch.Tensor]) -> None:
        """Take the engine that is expected to finish first, counting what it takes to make it ready."""
        memory = _Memory.read()
        key = digest_of_texts((split.digest(), str(block), str(torch.get_num_threads()), repr(self.work)))
        before = self._shared.get(split.digest()) or memory.choices.get(key)
        if before is not None and lacking(before, self._engines) is None:
            self._decide(before, "as before on these images")
            return
        name, reason, speeds = self._cheapest(split, block, sample, memory)
        self._shared[split.digest()] = memory.choices[key] = name
        memory.write()
        self._decide(name, reason, speeds)

    def _cheapest(
        self, split: SplitNetwork, block: int, sample: Callable[[], torch.Tensor], memory: _Memory
    ) -> tuple[str, str, dict[str, float]]:
        rates = memory.rates.setdefault(_structure(split, block), {})
        torch_seconds = rates.get(TORCH, split.seconds)
        savings = _savings(split, block, self.work, self._engines, memory, self._store)
        speeds = {TORCH: round(1 / max(torch_seconds, 1e-9), 1)} if savings else {}
        reason = "no other engine is expected to save more time than it takes to make ready"
        for name in savings:
            started = perf_counter()
            try:
                opened = self._open(name, split, block, sample())
            except EngineFailed as error:
                self._progress.note(f"engine `{name}` is not used: {error}")
                reason = f"`{name}` is not used: {error}"
                continue
            torch_seconds = rates[TORCH] = opened.torch_seconds
            rates[name] = opened.seconds
            speeds |= {each: round(1 / rates[each], 1) for each in (TORCH, name)}
            if not opened.kept:
                memory.ready[name] = round(perf_counter() - started, 2)
            if opened.seconds <= WORTH * torch_seconds:
                self._opened[split.digest()] = opened
                share = torch_seconds / opened.seconds
                self._progress.note(f"engine {name}: {share:.1f} times as fast as torch on the frozen layers")
                return name, f"{share:.1f} times as fast as torch", speeds
            reason = f"`{name}` takes {opened.seconds / torch_seconds:.0%} of torch's time"
        return TORCH, reason, speeds


def expected_engine(asked: Engine, split: SplitNetwork, block: int, work: Work, plugins: Plugins) -> str:
    """The engine that a run would take if all estimates come true; nothing is measured."""
    if asked != "auto":
        return asked
    if split.place.type != "cpu":
        return TORCH
    return next(iter(_savings(split, block, work, engines_of(plugins), _Memory.read(), None)), TORCH)


def _savings(
    split: SplitNetwork,
    block: int,
    work: Work,
    engines: dict[str, FrozenEngine],
    memory: _Memory,
    store: Store | None,
) -> list[str]:
    """Engines that are expected to save more time than it takes to make them ready, the best first."""
    rates = memory.rates.get(_structure(split, block), {})
    torch_seconds = rates.get(TORCH, split.seconds)
    found = []
    depthwise = any(
        isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 for layer in split.computing.modules()
    )
    for name, shares in EXPECTED.items():
        if lacking(name, engines) is not None:
            continue
        share = shares[0 if depthwise else 1]
        if name in engines and in_bf16(split, engines[name]):
            share = EXPECTED_BF16.get(name, shares)[0 if depthwise else 1]
        elif split.autocast is not None and name != COMPILED:
            share /= BF16
        saved = (torch_seconds - rates.get(name, share * torch_seconds)) * work.images
        kept = name in engines and is_kept(split, engines[name], block, store)
        ready = (OPEN if kept else memory.ready.get(name, READY[name])) * work.networks
        if saved > MARGIN * ready:
            found.append((saved - ready, name))
    return [name for _, name in sorted(found, reverse=True)]


def _structure(split: SplitNetwork, block: int) -> str:
    return f"{split.structure()} {block} {torch.get_num_threads()}"


@dataclass
class _Memory:
    """What earlier runs on this machine chose and measured, in a memo.

    Attributes:
        choices: Engine by network and images, so that a run once more takes the same one.
        rates: Seconds per image by engine, by the structure of the network.
        ready: Seconds to make an engine ready.
    """

    choices: dict[str, str]
    rates: dict[str, dict[str, float]]
    ready: dict[str, float]

    @classmethod
    def read(cls) -> _Memory:
        found: Any = read_memo("engines", cls._key())
        try:
            return cls(
                {key: str(name) for key, name in found["choices"].items()},
                {key: {name: float(rate) for name, rate in rates.items()} for key, rates in found["rates"].items()},
                {name: float(seconds) for name, seconds in found["ready"].items()},
            )
        except (TypeError, KeyError, ValueError, AttributeError):  # a damaged memo
            return cls({}, {}, {})

    def write(self) -> None:
        def last(values: dict[str, Any]) -> dict[str, Any]:
            return dict(list(values.items())[-KEPT:])

        rates = {key: value for key, value in self.rates.items() if value}
        write_memo("engines", self._key(), {"choices": last(self.choices), "rates": last(rates), "ready": self.ready})

    @staticmethod
    def _key() -> str:
        code = source_key(Path(__file__), Path(str(engine_module.__file__)))
        packages = {name: version for name, version in versions().items() if name != "backbone-zoo"}
        return f"{machine()['processor']} {packages} {code}"
