"""Engines: what computes a frozen prefix in place of torch, and the comparison with torch that each must pass.

An engine computes blocks of one fixed size. It is used for a split network once it has agreed with torch on images of
the run: rows and logits within bounds, labels equal, and the bits of an image's row the same wherever it stands in a
block.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import torch

from zoo.errors import ZooError, type_and_first_line
from zoo.exporter import Compute, FrozenEngine
from zoo.feature_cache.split_network import TOLERANCE, Rows, SplitNetwork
from zoo.plugin import Plugins
from zoo.storage.cache import source_key
from zoo.storage.tensor_store import Store
from zoo.system.denormals import keep_denormal_mode
from zoo.system.environment import package_version, versions
from zoo.target import load_target

TORCH, COMPILED = "torch", "torch-compile"

# Largest difference between an engine's values in fp32 and torch's, as a share of the largest value. Engines differ by
# 1e-6 to 1e-5, a wrong operator or a lower precision by more than 1e-3
BOUND = 1e-4
# The same where both are rounded to bf16, whose last bit is 1/256 of a value
ROUNDED = 1e-2
# An engine that computes in bf16 may be off from fp32 by so many times what torch in bf16 is off, or by `ROUNDED`
AS_TORCH = 2.0

# Computes the rows of a block of inputs `(N, 3, H, W)`
BlockCompute = Callable[[torch.Tensor], Rows]


class EngineFailed(Exception):
    """An engine cannot be used for a network; the message says why."""


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that agrees with torch on a network.

    Attributes:
        compute: Computes blocks.
        seconds: Time of an image.
        torch_seconds: The same of torch, measured on the same images in turns.
        made: Seconds that making it ready took, such as an export.
        kept: Whether it was made by an earlier run.
    """

    compute: BlockCompute
    seconds: float
    torch_seconds: float
    made: float
    kept: bool


def engines_of(plugins: Plugins) -> dict[str, FrozenEngine]:
    """The engines that plugins bring, by name."""
    found = (entry.value.engine for entry in plugins.exporters)
    return {engine.name: engine for engine in found if engine is not None}


def lacking(name: str, engines: dict[str, FrozenEngine]) -> str | None:
    """Why an engine cannot be had here, before any network is looked at; None: it can."""
    if name == TORCH:
        return None
    if name == COMPILED:
        compiler = os.environ.get("CXX") or "g++"
        found = shutil.which(compiler) or shutil.which("clang++")
        return None if found else f"there is no C++ compiler `{compiler}`"
    if name not in engines:
        return "no plugin that is loaded brings it"
    return None if find_spec(engines[name].package) else f"`{engines[name].package}` is not installed"


def version_of(engine: FrozenEngine) -> str:
    """The installed version of an engine's package; empty where no distribution has its name."""
    return package_version(engine.package) or ""


def in_bf16(split: SplitNetwork, engine: FrozenEngine) -> bool:
    """Whether an engine computes a split network in bf16."""
    return split.autocast is torch.bfloat16 and engine.open_bf16 is not None


def is_kept(split: SplitNetwork, engine: FrozenEngine, block: int, store: Store | None) -> bool:
    """Whether a converted network is kept in the store; a damaged one counts, and is made anew when it is opened."""
    return store is not None and store.has(_export_key(split, engine, block))


def open_engine(
    name: str,
    split: SplitNetwork,
    block: int,
    sample: torch.Tensor,
    *,
    engines: dict[str, FrozenEngine],
    store: Store | None,
) -> OpenedEngine:
    """Open an engine for a split network and compare it with torch.

    Args:
        name: Of the engine; not `torch`.
        split: The network.
        block: Images of a block.
        sample: A block of images of the run, `(block, 3, H, W)`.
        engines: Those that plugins bring.
        store: Where a converted network is kept.

    Raises:
        EngineFailed: it cannot be had, cannot compute the network, or does not agree with torch.
    """
    why = lacking(name, engines)
    if why is not None:
        raise EngineFailed(why)
    if split.place.type != "cpu":
        raise EngineFailed(f"it computes on the CPU, and the run on {split.place}")
    started, kept = perf_counter(), False
    try:
        if name == COMPILED:
            compute = _compiled(split)
            compute(sample)  # compiles
        else:
            compute, kept = _converted(split, engines[name], block, sample, store)
        made = perf_counter() - started
        rounds = name != COMPILED and not in_bf16(split, engines[name])
        seconds, torch_seconds = _agree(split, compute, sample, rounds=rounds)
    except EngineFailed:
        raise
    except Exception as error:  # of any type, from exporters, compilers and engines
        text = error.message if isinstance(error, ZooError) else type_and_first_line(error)
        raise EngineFailed(text) from error
    return OpenedEngine(compute, seconds, torch_seconds, made, kept)


def _compiled(split: SplitNetwork) -> BlockCompute:
    """The prefix by torch's compiler, in the precision of the split."""
    compiled = torch.compile(split.computing, dynamic=False)

    def compute(inputs: torch.Tensor) -> Rows:
        with torch.no_grad(), split.precision():
            return split.rows_of(compiled(inputs), len(inputs))

    return compute


def _converted(
    split: SplitNetwork, engine: FrozenEngine, block: int, sample: torch.Tensor, store: Store | None
) -> tuple[BlockCompute, bool]:
    """The prefix by an engine of a plugin, and whether the converted network was kept in the store."""
    key = _export_key(split, engine, block)
    found = store.read(key) if store is not None else None
    if found is not None and set(found) == {"model"}:
        try:
            return _opened(engine, found["model"].numpy().tobytes(), split), True
        except Exception:  # of any type: it is converted anew
            pass
    with torch.no_grad():
        model: bytes = load_target(engine.convert)(split.computing, sample)
    compute = _opened(engine, model, split)
    if store is not None and store.failure is None:
        store.write(key, {"model": torch.frombuffer(bytearray(model), dtype=torch.uint8)})
    return compute, False


def _opened(engine: FrozenEngine, model: bytes, split: SplitNetwork) -> BlockCompute:
    target = engine.open_bf16 if engine.open_bf16 is not None and in_bf16(split, engine) else engine.open
    with keep_denormal_mode():
        return _as_blocks(load_target(target)(model, torch.get_num_threads()), split)


def _as_blocks(engine: Compute, split: SplitNetwork) -> BlockCompute:
    """A function of blocks from one of arrays. An input that is not finite gives rows of NaN, as in torch."""

    def compute(inputs: torch.Tensor) -> Rows:
        values = [torch.from_numpy(value) for value in engine(inputs.contiguous().numpy())]
        if len(values) != len(split.boundary):
            raise EngineFailed(f"it gives {len(values)} tensors, not {len(split.boundary)}")
        given = (value.to(tensor.dtype) for value, tensor in zip(values, split.boundary))
        rows = split.rows_of(list(given), len(inputs))
        strange = ~torch.isfinite(inputs.sum(dim=(1, 2, 3)))
        if bool(strange.any()):
            for row in rows:
                if row.dtype.is_floating_point:
                    row[strange] = torch.nan
        return rows

    return compute


def _export_key(split: SplitNetwork, engine: FrozenEngine, block: int) -> dict[str, object]:
    return {
        "kind": "engine",
        "engine": f"{engine.name} {version_of(engine)}",
        "convert": str(engine.convert),
        "code": source_key(Path(__file__)),
        "prefix": split.graph_digest(),
        "block": block,
        "versions": {name: version for name, version in versions().items() if name != "backbone-zoo"},
    }


@torch.no_grad()
def _agree(split: SplitNetwork, compute: BlockCompute, sample: torch.Tensor, *, rounds: bool) -> tuple[float, float]:
    """Compare an engine with torch on a block of images; returns the seconds per image of both.

    `rounds` says that the engine computes in fp32 and rounds the result to the dtype of the split. One that computes in
    bf16 may be off from fp32 by twice what torch in bf16 is off.

    Raises:
        EngineFailed: they differ by more than their bounds, in a label, or by the place of an image in the block.
    """
    finite = torch.isfinite(sample.sum(dim=(1, 2, 3)))
    if not bool(finite.any()):
        raise EngineFailed("there is no image to compare it with torch on")
    timed = ([], [])  # type: tuple[list[float], list[float]]
    expected, found = _timed(lambda: split.prefix(sample), timed[1]), _timed(lambda: compute(sample), timed[0])
    turned = torch.arange(len(sample)).roll(1)
    again = _timed(lambda: compute(sample[turned].contiguous(memory_format=torch.channels_last)), timed[0])
    _timed(lambda: split.prefix(sample), timed[1])
    of_rows, of_logits = [BOUND] * len(expected), BOUND
    if split.autocast is not None:  # both are compared with fp32
        torch_rows, expected = expected, _in_fp32(split, sample)
        of_rows, of_logits = [ROUNDED] * len(expected), TOLERANCE[split.autocast]
        if not rounds:
            off = [_apart(one[finite], row[finite]) for one, row in zip(expected, torch_rows)]
            of_rows = [max(ROUNDED, AS_TORCH * each) for each in off]
            logits_off = _apart(split.logits(*expected)[finite], split.logits(*torch_rows)[finite])
            of_logits = max(ROUNDED, AS_TORCH * logits_off)
    for number, (one, other, moved) in enumerate(zip(expected, found, again)):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise EngineFailed(f"tensor {number} is {list(other.shape)} {other.dtype}, not as in torch")
        if not torch.equal(other[turned][finite[turned]], moved[finite[turned]]):
            raise EngineFailed("what it computes for an image depends on the place of the image in a block")
        apart = _apart(one[finite], other[finite])
        if not apart <= of_rows[number]:
            raise EngineFailed(
                f"its values differ from torch's by {apart:.1g} of the largest, and {of_rows[number]:.2g} is allowed"
            )
    logits, answers = split.logits(*expected)[finite], split.logits(*found)[finite]
    apart = _apart(logits, answers)
    if not apart <= of_logits:
        raise EngineFailed(f"logits differ from torch's by {apart:.1g} of the largest, and {of_logits:.2g} is allowed")
    sure = ~close_calls(logits, of_logits)
    if not torch.equal(logits.argmax(1)[sure], answers.argmax(1)[sure]):
        raise EngineFailed("it gives an image another label than torch does")
    return min(timed[0]) / len(sample), min(timed[1]) / len(sample)


def _in_fp32(split: SplitNetwork, sample: torch.Tensor) -> Rows:
    """The rows that torch computes in fp32, rounded to the dtypes of the split."""
    with torch.autocast(split.place.type, enabled=False):
        rows = split.rows_of(split.computing(sample), len(sample))
    return tuple(row.to(tensor.dtype) for row, tensor in zip(rows, split.boundary))


def close_calls(logits: torch.Tensor, bound: float) -> torch.Tensor:
    """Which of logits `(N, classes)` could have another label if each changed by `bound` of the largest of all.

    Two logits that each change by at most d cannot change their order where they are more than 2 d apart.
    """
    if logits.shape[1] < 2 or not len(logits):
        return torch.zeros(len(logits), dtype=torch.bool)
    top = logits.topk(2, dim=1).values
    return ~(top[:, 0] - top[:, 1] > 2 * bound * logits.abs().max())


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    largest = max(float(one.float().abs().max()), 1e-30)
    return float((one.float() - other.float()).abs().max()) / largest


def _timed(compute: Callable[[], Rows], seconds: list[float]) -> Rows:
    started = perf_counter()
    rows = compute()
    seconds.append(perf_counter() - started)
    return rows
